"""When to try again, and how long to wait before."""

import email.utils
import random
import threading

from edge_s2s.errors import CloudError

RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
BASE_S, CAP_S = 0.2, 2.0


def is_retriable(error: CloudError) -> bool:
    """Whether the same request may succeed a moment later."""
    return error.reason == "connect" or (error.reason == "status" and error.status in RETRIED_STATUS)


def backoff_s(n_failures: int, rng: random.Random) -> float:
    """Full jitter: anything from 0 to a bound that doubles with each failure."""
    return rng.uniform(0, min(CAP_S, BASE_S * 2 ** (n_failures - 1)))


def retry_after_s(value: str | None, now: float) -> float | None:
    """What a `Retry-After` header asks for, in seconds or as a date (`now` is Unix time); None if neither."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


class RetryBudget:
    """Retries of all calls together: when the endpoint is down, a client stops making it worse."""

    CAPACITY, COST, THROTTLE_COST = 20, 5, 10

    def __init__(self) -> None:
        self._tokens = float(self.CAPACITY)
        self._lock = threading.Lock()

    def spend(self, error: CloudError) -> bool:
        """Whether there was enough for one retry after `error`."""
        cost = self.THROTTLE_COST if error.status == 429 else self.COST
        with self._lock:
            if self._tokens < cost:
                return False
            self._tokens -= cost
            return True

    def success(self) -> None:
        """A call that needed no retry gives one token back."""
        with self._lock:
            self._tokens = min(self.CAPACITY, self._tokens + 1)
