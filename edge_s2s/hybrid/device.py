"""How the device is, and what the model should do about it.

    governor = Governor(LinuxDevice())
    governor.step()   # Step.FULL, FEWER_THREADS, GREEDY, SMALLER_BUNDLE or OFFLOAD

A device is anything with `read() -> DeviceState`; what it cannot tell is None and changes nothing. On Android
or iOS the app writes its own.
"""

import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum
from pathlib import Path
from typing import Protocol, Self

from edge_s2s.hybrid.config import read_table


class Step(IntEnum):
    """What to do, each step more than the one before."""

    FULL = 0
    FEWER_THREADS = 1
    GREEDY = 2
    SMALLER_BUNDLE = 3
    OFFLOAD = 4
    """To the cloud, or refuse"""


@dataclass(frozen=True)
class DeviceState:
    """Measured values; None where there is no sensor."""

    temperature_c: float | None = None
    """Of the hottest sensor"""
    battery_percent: float | None = None
    """None also while it is charged"""
    free_memory_mib: float | None = None
    is_throttled: bool | None = None
    """The system has slowed the processor down because of heat or a weak power supply"""
    is_metered: bool | None = None
    """The network costs by volume"""


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """What the command line does for a device that needs it."""

    fewer_threads: bool = True
    """Whether the bundle is loaded once more, with half of the threads, when the device is warm"""
    smaller_bundle: str | None = None
    """What is used when it is hot"""
    root: str = "/"
    """Where `sys` and `proc` are; in a container perhaps those of its host"""

    def __post_init__(self) -> None:
        if not isinstance(self.fewer_threads, bool):
            raise ValueError(f"fewer_threads: expected true or false, found {self.fewer_threads!r}")
        for name in ("smaller_bundle", "root"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and Path(value).exists()):
                raise ValueError(f"{name}: expected a path that exists, found {value!r}")

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Self:
        """Reads the table `[device]` of a file; without one it is the default."""
        return cls(**read_table(Path(path), "device", [field.name for field in fields(cls)]))


class Device(Protocol):
    """Something with sensors."""

    def read(self) -> DeviceState:
        """Its state now."""


# The limit at which each step from FEWER_THREADS on begins, and by how much a value must get better again.
_HOT: tuple[float, ...] = (70, 75, 80, 85)
_HOT_MARGIN = 5.0
_EMPTY: tuple[float, ...] = (30, 20, 10, 5)
_EMPTY_MARGIN = 5.0
_FULL_MIB: tuple[float, ...] = (512, 384, 256, 128)
_FULL_MARGIN = 64.0
MIN_SECONDS = 10.0
"""Between two changes"""


class Governor:
    """Chooses the step for the state of a device; for any number of threads.

    It goes up at once as far as it must, down one step at a time and only when the value is better than its
    limit by a margin, and changes at most once in 10 s. The worst of all values counts.
    """

    def __init__(self, device: Device, clock: Callable[[], float] = time.monotonic) -> None:
        self.device = device
        self._clock = clock
        self._lock = threading.Lock()
        self._step = Step.FULL
        self._changed: float | None = None

    def step(self) -> Step:
        """What to do now."""
        state = self.device.read()
        with self._lock:
            now = self._clock()
            if self._changed is None or now - self._changed >= MIN_SECONDS:
                wanted = _wanted(state, self._step)
                if wanted != self._step:
                    self._step, self._changed = wanted, now
            return self._step


def _wanted(state: DeviceState, current: Step) -> Step:
    must, may_stay = _worst(state, 0.0), _worst(state, 1.0)
    if must > current:
        return must
    return current if may_stay >= current else Step(current - 1)


def _worst(state: DeviceState, margin: float) -> Step:
    """The highest step whose limit, less `margin` of its margin, a value has reached."""
    n = 0
    if (hot := state.temperature_c) is not None:
        n = max(n, sum(hot >= limit - margin * _HOT_MARGIN for limit in _HOT))
    if (left := state.battery_percent) is not None:
        n = max(n, sum(left <= limit + margin * _EMPTY_MARGIN for limit in _EMPTY))
    if (free := state.free_memory_mib) is not None:
        n = max(n, sum(free <= limit + margin * _FULL_MARGIN for limit in _FULL_MIB))
    if state.is_throttled:
        n = max(n, int(Step.GREEDY))
    return Step(n)


class LinuxDevice:
    """Linux and Raspberry Pi, by /sys and /proc; `root` is where these two are.

    A modem or a dialled connection as the way out counts as metered; what else is, Linux does not say here.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._sys, self._proc = root / "sys", root / "proc"

    def read(self) -> DeviceState:
        """Its state now; a sensor that cannot be read, or tells nonsense, is None."""
        throttled = _number(self._sys / "devices/platform/soc/soc:firmware/get_throttled", base=16)
        return DeviceState(
            temperature_c=self._temperature_c(),
            battery_percent=self._battery_percent(),
            free_memory_mib=self._free_memory_mib(),
            # Bits 0 to 3, for now: under-voltage, frequency capped, throttled, soft temperature limit.
            is_throttled=None if throttled is None else bool(int(throttled) & 0b1111),
            is_metered=self._is_metered(),
        )

    def _temperature_c(self) -> float | None:
        zones = sorted((self._sys / "class/thermal").glob("thermal_zone*/temp"))
        found = [value / 1000 for zone in zones if (value := _number(zone)) is not None]
        return max((celsius for celsius in found if -40 < celsius < 150), default=None)

    def _battery_percent(self) -> float | None:
        for supply in sorted((self._sys / "class/power_supply").glob("*")):
            if _text(supply / "type") == "Battery" and _text(supply / "status") == "Discharging":
                percent = _number(supply / "capacity")
                if percent is not None and 0 <= percent <= 100:
                    return percent
        return None

    def _free_memory_mib(self) -> float | None:
        """What the system, and the control group of this process, still have."""
        available = re.search(r"^MemAvailable: *(\d+) kB$", _text(self._proc / "meminfo") or "", re.MULTILINE)
        free = [] if available is None else [int(available[1]) / 1024]
        limit, used = (_number(self._sys / "fs/cgroup" / f"memory.{name}") for name in ("max", "current"))
        if limit is not None and used is not None:
            free.append(max(0.0, limit - used) / (1 << 20))
        return min(free, default=None)

    def _is_metered(self) -> bool | None:
        table = _text(self._proc / "net/route")
        if table is None:
            return None
        rows = [line.split() for line in table.splitlines()[1:]]
        ways_out = [row[0] for row in rows if len(row) > 7 and row[1] == row[7] == "00000000"]
        return any(name.startswith(("ww", "ppp", "rmnet")) for name in ways_out[:1])


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _number(file: Path, base: int = 10) -> float | None:
    try:
        return float(int(_text(file) or "", base))
    except ValueError:
        return None
