import random

import pytest

from edge_s2s.errors import CloudError
from edge_s2s.hybrid.retries import RetryBudget, backoff_s, is_retriable, retry_after_s


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None), ("7", 7), (" 7 ", 7), ("-1", None), ("1.5", None), ("soon", None), ("", None),
        ("٣", None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90), ("Thu, 01 Jan 1970 00:00:01 GMT", 0),
        ("9" * 400, float("inf")),
        ("Thu, 99 Jan 1970 00:01:40 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_is_read_as_seconds_or_a_date(value: str | None, seconds: float | None):
    assert retry_after_s(value, now=10.0) == seconds


def test_backoff_is_anything_up_to_a_bound_that_doubles():
    rng = random.Random(1)
    for n_failures, bound in ((1, 0.2), (2, 0.4), (3, 0.8), (4, 1.6), (5, 2.0), (9, 2.0)):
        waits = [backoff_s(n_failures, rng) for _ in range(2000)]
        assert 0 <= min(waits) < 0.02 * bound
        assert 0.98 * bound < max(waits) <= bound


def test_a_client_whose_every_call_fails_retries_four_times_and_then_once_for_five_successes():
    budget = RetryBudget()
    error = CloudError("status", "", status=503)
    assert [budget.spend(error) for _ in range(5)] == [True] * 4 + [False]
    for _ in range(5):
        assert not budget.spend(error)
        budget.success()
    assert budget.spend(error)


def test_throttling_costs_twice():
    budget = RetryBudget()
    assert [budget.spend(CloudError("status", "", status=429)) for _ in range(3)] == [True, True, False]


def test_only_passing_failures_are_retried():
    assert is_retriable(CloudError("connect", ""))
    for reason in ("tls", "timeout", "interrupted", "too_large", "redirect", "invalid_response"):
        assert not is_retriable(CloudError(reason, ""))
