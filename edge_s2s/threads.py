"""How many threads a model uses unless told otherwise."""

import os
from pathlib import Path

VARIABLE = "EDGE_S2S_NUM_THREADS"
MAX_THREADS = 64
_MOST = 4  # a token is a few megabytes of weights: more threads wait for memory and for each other

_CPUS = Path("/sys/devices/system/cpu")
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def default_num_threads() -> int:
    """`EDGE_S2S_NUM_THREADS`, or else the performance cores that this process may use, 4 at most."""
    text = os.environ.get(VARIABLE)
    if text is None:
        return max(1, min(_MOST, count_performance_cores(), _quota()))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_THREADS:
        raise ValueError(f"{VARIABLE}: expected a number in 1..{MAX_THREADS}, found {text!r}")
    return int(text)


def count_performance_cores(cpus: Path = _CPUS) -> int:
    """Allowed CPUs about as fast as the fastest of them; all, where the system does not tell their speed."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    speeds = [_speed(cpus / f"cpu{i}") for i in os.sched_getaffinity(0)]
    return sum(speed >= 0.8 * max(speeds) for speed in speeds)


def _speed(cpu: Path) -> int:
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        try:
            return int((cpu / name).read_text())
        except (OSError, ValueError):
            continue
    return 0


def _quota(file: Path = _CGROUP_QUOTA) -> int:
    """CPUs that a container may use on average."""
    try:
        quota, period = file.read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return _MOST
