"""How many cores others used while we measured: /proc/stat, less what our own processes used.

A machine's counters have steps of 10 ms, so that only a round of some tenths of a second tells much. Time
that a hypervisor gave to other machines ("steal") counts as theirs. Where there is no /proc/stat, nothing is
known and nothing is rejected.
"""

import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path

LIMIT = 0.1  # cores of others that a round may have
_STAT = Path("/proc/stat")


class Meter:
    """Counts from its creation on; `pids` are our processes that live all the time."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = [*pids]
        self._start = self._now()

    def others(self) -> float | None:
        """Cores that others used, on average."""
        now = self._now()
        if now is None or self._start is None:
            return None
        wall, busy, own = (b - a for a, b in zip(self._start, now, strict=True))
        return max(0.0, (busy - own) / wall) if wall > 0 else 0.0

    def _now(self) -> tuple[float, float, float] | None:
        if not _STAT.exists():
            return None
        with _STAT.open() as file:
            ticks = [int(field) for field in file.readline().split()[1:9]]
        user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = time.process_time() + ended.ru_utime + ended.ru_stime + sum(map(cpu_seconds, self._pids))
        return time.perf_counter(), busy, own


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process, in fine steps: its clock, as clock_getcpuclockid names it."""
    return time.clock_gettime(~pid << 3 | 2)
