"""What was sent today, counted on disk, so that no restart and no second process resets it."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edge_s2s.errors import CloudError

_DAY_S = 86_400
FILE, LOCK = "cloud_usage.json", "cloud_usage.lock"


@dataclass(frozen=True)
class Usage:
    """Counts of one day of UTC, the `day`-th since 1970."""

    day: int
    n_requests: int
    n_tokens: int


class DailyUsage:
    """Counts requests and tokens in a folder, for all processes that share it.

    The day never goes back: a clock that was set back resets nothing.
    """

    def __init__(
        self, folder: Path, *, max_requests: int, max_tokens: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._clock = clock

    def read(self) -> Usage:
        """Today's counts. A file that cannot be read is a CloudError `budget`: what was sent is unknown."""
        file = self._folder / FILE
        today = int(self._clock() // _DAY_S)
        try:
            usage = Usage(**json.loads(file.read_text(encoding="utf-8")))
            if not all(type(value) is int and value >= 0 for value in asdict(usage).values()):
                raise ValueError("not three counts")
        except FileNotFoundError:
            return Usage(today, 0, 0)
        except (OSError, ValueError, TypeError) as error:
            raise CloudError("budget", f"{file} is damaged; remove it to count from 0") from error
        return usage if usage.day >= today else Usage(today, 0, 0)

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
            self._write(replace(usage, n_requests=usage.n_requests + 1, n_tokens=usage.n_tokens + n_tokens))

    def settle(self, n_reserved: int, n_used: int) -> None:
        """Puts what a request really used in the place of what was reserved for it."""
        with self._locked():
            usage = self.read()
            self._write(replace(usage, n_tokens=max(0, usage.n_tokens - n_reserved + n_used)))

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
