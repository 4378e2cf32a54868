"""A circuit breaker: an endpoint that fails is left alone for a while."""

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from edge_s2s.errors import CloudError

_CONSECUTIVE = 5
_WINDOW_S, _WINDOW_CALLS, _WINDOW_SHARE = 60.0, 10, 0.5
_OPEN_S, _MAX_OPEN_S, _SPREAD = 30.0, 900.0, 0.2


class CircuitBreaker:
    """Opens after 5 failures in a row, or half of 10 and more calls within a minute.

    It stays open for 30 s, longer each time, 15 minutes at most, each +-20 %. Then one call may probe.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, rng: random.Random | None = None) -> None:
        self._clock = clock
        self._rng = random.Random() if rng is None else rng
        self._lock = threading.Lock()
        self._calls: deque[tuple[float, bool]] = deque(maxlen=1000)  # when, whether it failed
        self._n_consecutive = 0
        self._n_openings = 0
        self._open_until: float | None = None
        self._probing = False

    @property
    def state(self) -> Literal["closed", "open", "half_open"]:
        """Whether calls go through, none does, or one may probe."""
        with self._lock:
            if self._open_until is None:
                return "closed"
            return "open" if self._clock() < self._open_until else "half_open"

    def enter(self) -> None:
        """Before a call; CloudError `open_circuit` if it may not be made. `success` or `failure` follows."""
        with self._lock:
            if self._open_until is None:
                return
            left = self._open_until - self._clock()
            if left > 0:
                raise CloudError(
                    "open_circuit", f"the endpoint has failed and is left alone for {left:.0f} s"
                )
            if self._probing:
                raise CloudError("open_circuit", "the endpoint has failed and is being probed")
            self._probing = True

    def success(self) -> None:
        """The endpoint answered."""
        with self._lock:
            if self._probing:
                self._calls.clear()
            self._calls.append((self._clock(), False))
            self._n_consecutive = self._n_openings = 0
            self._open_until, self._probing = None, False

    def failure(self) -> None:
        """The endpoint did not answer as it must."""
        with self._lock:
            now = self._clock()
            self._calls.append((now, True))
            self._n_consecutive += 1
            recent = [failed for moment, failed in self._calls if now - moment <= _WINDOW_S]
            if (
                self._probing
                or self._n_consecutive >= _CONSECUTIVE
                or (len(recent) >= _WINDOW_CALLS and sum(recent) >= _WINDOW_SHARE * len(recent))
            ):
                seconds = min(_MAX_OPEN_S, _OPEN_S * 2**self._n_openings)
                self._open_until = now + seconds * self._rng.uniform(1 - _SPREAD, 1 + _SPREAD)
                self._n_openings += 1
                self._n_consecutive = 0
                self._calls.clear()
            self._probing = False

    def abandon(self) -> None:
        """The call ended without saying anything about the endpoint."""
        with self._lock:
            self._probing = False
