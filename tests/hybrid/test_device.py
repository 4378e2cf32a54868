"""The governor over scripted curves, read through a fake /sys and /proc."""

from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest

from edge_s2s.hybrid.device import MIN_SECONDS, DeviceState, Governor, LinuxDevice, Step

Curve = list[tuple[int, dict[str, float | str | None]]]  # from this second on, these files


class FakeSystem:
    """A folder with the files that sensors are read from, and a clock."""

    FILES: ClassVar = {
        "temperature": "sys/class/thermal/thermal_zone0/temp",
        "other_zone": "sys/class/thermal/thermal_zone1/temp",
        "battery": "sys/class/power_supply/BAT0/capacity",
        "status": "sys/class/power_supply/BAT0/status",
        "throttled": "sys/devices/platform/soc/soc:firmware/get_throttled",
        "memory": "proc/meminfo",
        "limit": "sys/fs/cgroup/memory.max",
        "used": "sys/fs/cgroup/memory.current",
        "route": "proc/net/route",
    }

    def __init__(self, root: Path) -> None:
        self.root, self.now = root, 0.0
        self._write("sys/class/power_supply/BAT0/type", "Battery\n")
        self._write("sys/class/power_supply/AC/type", "Mains\n")

    def clock(self) -> float:
        return self.now

    def set(self, **values: float | str | None) -> None:
        for name, value in values.items():
            if value is None:
                (self.root / self.FILES[name]).unlink(missing_ok=True)
            elif name == "memory":
                self._write(
                    self.FILES[name], f"MemTotal: 9 kB\nMemAvailable:  {int(float(value) * 1024)} kB\n"
                )
            elif name in ("temperature", "other_zone") and not isinstance(value, str):
                self._write(self.FILES[name], f"{int(value * 1000)}\n")
            else:
                self._write(self.FILES[name], f"{value}\n")

    def _write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)


@pytest.fixture
def system(tmp_path: Path) -> FakeSystem:
    return FakeSystem(tmp_path)


def steps(system: FakeSystem, curve: Curve, seconds: int) -> list[tuple[int, str]]:
    """The second and name of each change, over a curve read every second."""
    governor = Governor(LinuxDevice(system.root), system.clock)
    script = dict(curve)
    changes = [(0, Step.FULL)]
    for second in range(seconds):
        system.now = float(second)
        system.set(**script.get(second, {}))
        if (step := governor.step()) != changes[-1][1]:
            changes.append((second, step))
    moments = [second for second, _ in changes[1:]]
    assert all(b - a >= MIN_SECONDS for a, b in pairwise(moments)), changes
    return [(second, step.name) for second, step in changes[1:]]


CURVES: dict[str, tuple[Curve, list[tuple[int, str]]]] = {
    "slow heating and cooling": (
        [(0, {"temperature": 50}), (20, {"temperature": 71}), (40, {"temperature": 76}),
         (60, {"temperature": 81}), (80, {"temperature": 86}), (100, {"temperature": 60})],
        [(20, "FEWER_THREADS"), (40, "GREEDY"), (60, "SMALLER_BUNDLE"), (80, "OFFLOAD"),
         (100, "SMALLER_BUNDLE"), (110, "GREEDY"), (120, "FEWER_THREADS"), (130, "FULL")],
    ),
    "a temperature that swings around a limit": (
        [(second, {"temperature": 72 if second % 2 else 68}) for second in range(120)],
        [(1, "FEWER_THREADS")],
    ),
    "a sudden fire": (
        [(0, {"temperature": 40}), (5, {"temperature": 90}), (7, {"temperature": 40})],
        [(5, "OFFLOAD"), (15, "SMALLER_BUNDLE"), (25, "GREEDY"), (35, "FEWER_THREADS"), (45, "FULL")],
    ),
    "a battery that runs down and is charged": (
        [(0, {"battery": 80, "status": "Discharging"}), (20, {"battery": 29}), (40, {"battery": 19}),
         (60, {"battery": 9}), (80, {"battery": 4}), (100, {"status": "Charging"})],
        [(20, "FEWER_THREADS"), (40, "GREEDY"), (60, "SMALLER_BUNDLE"), (80, "OFFLOAD"),
         (100, "SMALLER_BUNDLE"), (110, "GREEDY"), (120, "FEWER_THREADS"), (130, "FULL")],
    ),
    "memory that other programs take": (
        [(0, {"memory": 900}), (15, {"memory": 300}), (40, {"memory": 430}), (60, {"memory": 450}),
         (80, {"memory": 577})],
        [(15, "GREEDY"), (60, "FEWER_THREADS"), (80, "FULL")],
    ),
    "sensors that break": (
        [(0, {"temperature": 82}), (20, {"temperature": "??"}), (50, {"temperature": 999}),
         (60, {"temperature": None})],
        [(0, "SMALLER_BUNDLE"), (20, "GREEDY"), (30, "FEWER_THREADS"), (40, "FULL")],
    ),
    "a Raspberry Pi that throttles, and another hot zone": (
        [(0, {"throttled": "50000"}), (10, {"throttled": "50004"}),
         (30, {"throttled": "0", "other_zone": 81})],
        [(10, "GREEDY"), (30, "SMALLER_BUNDLE")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CURVES)
def test_a_curve_gives_the_declared_steps_at_most_one_in_10_seconds(name: str, system: FakeSystem):
    curve, expected = CURVES[name]
    assert steps(system, curve, 150) == expected


def test_a_system_without_sensors_changes_nothing(tmp_path: Path):
    state = LinuxDevice(tmp_path).read()
    assert state == DeviceState()
    assert Governor(LinuxDevice(tmp_path)).step() == Step.FULL


def test_this_machine_can_be_read():
    state = LinuxDevice().read()
    assert state.free_memory_mib is None or state.free_memory_mib > 0


def test_a_control_group_has_less_than_the_system(system: FakeSystem):
    system.set(memory=4000, limit=512 << 20, used=400 << 20)
    assert LinuxDevice(system.root).read().free_memory_mib == 112
    system.set(limit="max")
    assert LinuxDevice(system.root).read().free_memory_mib == 4000


@pytest.mark.parametrize(("interface", "is_metered"), [("wlan0", False), ("wwan0", True), ("ppp0", True)])
def test_a_modem_as_the_way_out_is_metered(interface: str, is_metered: bool, system: FakeSystem):
    system.set(route=(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
        "wwan9\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n"
        f"{interface}\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000"
    ))  # fmt: skip
    assert LinuxDevice(system.root).read().is_metered is is_metered


def test_a_battery_that_is_charged_is_no_limit(system: FakeSystem):
    system.set(battery=3, status="Charging")
    assert LinuxDevice(system.root).read().battery_percent is None
