"""What was sent today and just now, counted on disk, so that no restart and no second process resets it."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edge_s2s.errors import CloudError

_DAY_S, _MINUTE_MS = 86_400, 60_000
FILE, LOCK = "cloud_usage.json", "cloud_usage.lock"


@dataclass(frozen=True)
class Usage:
    """Counts of one day of UTC, the `day`-th since 1970."""

    day: int
    n_requests: int
    n_tokens: int
    full_ms: int = 0
    """When the bucket of the minute is full again, in Unix time"""


class CloudUsage:
    """Counts requests and tokens in a folder, for all processes that share it.

    The day never goes back: a clock that was set back resets nothing. The minute is a bucket of
    `max_requests_per_minute`, which fills evenly; a clock that was set gives one bucket at most.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_requests: int,
        max_tokens: int,
        max_requests_per_minute: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._max_requests = max_requests
        self._max_requests_per_minute = max_requests_per_minute
        self._max_tokens = max_tokens
        self._clock = clock

    def read(self) -> Usage:
        """Today's counts. A file that cannot be read is a CloudError `budget`: what was sent is unknown."""
        file = self._folder / FILE
        today = int(self._clock() // _DAY_S)
        try:
            usage = Usage(**json.loads(file.read_text(encoding="utf-8")))
            if not all(type(value) is int and value >= 0 for value in asdict(usage).values()):
                raise ValueError("not counts")
        except FileNotFoundError:
            return Usage(today, 0, 0)
        except (OSError, ValueError, TypeError) as error:
            raise CloudError("budget", f"{file} is damaged; remove it to count from 0") from error
        return usage if usage.day >= today else Usage(today, 0, 0, usage.full_ms)

    def reserve(self, n_tokens: int) -> None:
        """Counts a request before it is sent; CloudError `budget` if it is one too many."""
        with self._locked():
            usage = self.read()
            if usage.n_requests + 1 > self._max_requests:
                raise CloudError("budget", f"max_requests_per_day is {self._max_requests}, all of them sent")
            if usage.n_tokens + n_tokens > self._max_tokens:
                raise CloudError(
                    "budget",
                    f"max_tokens_per_day is {self._max_tokens}; {usage.n_tokens} are used, "
                    f"{n_tokens} more were needed",
                )
            full_ms = self._take(usage.full_ms)
            self._write(Usage(usage.day, usage.n_requests + 1, usage.n_tokens + n_tokens, full_ms))

    def settle(self, n_reserved: int, n_used: int) -> None:
        """Puts what a request really used in the place of what was reserved for it."""
        with self._locked():
            usage = self.read()
            self._write(replace(usage, n_tokens=max(0, usage.n_tokens - n_reserved + n_used)))

    def _take(self, full_ms: int) -> int:
        """When the bucket is full again after one more request; CloudError `budget` if it is empty."""
        now = int(1000 * self._clock())
        most = self._max_requests_per_minute
        cost = _MINUTE_MS // most if most else 0
        if not now < full_ms <= now + _MINUTE_MS:  # full, or the clock was set back
            full_ms = now
        full_ms += cost
        if most == 0 or full_ms > now + _MINUTE_MS:
            left = "" if most == 0 else f"; one more in {(full_ms - now - _MINUTE_MS) / 1000:.1f} s"
            raise CloudError("budget", f"max_requests_per_minute is {most}, all of them sent{left}")
        return full_ms

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (self._folder / LOCK).open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise CloudError("budget", f"{self._folder}: cannot count what is sent: {error}") from error

    def _write(self, usage: Usage) -> None:
        temporary = self._folder / f"{FILE}.tmp"
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(asdict(usage), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._folder / FILE)
