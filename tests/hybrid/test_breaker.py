import random
import threading

import pytest

from edge_s2s.errors import CloudError
from edge_s2s.hybrid.breaker import CircuitBreaker


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(clock, random.Random(1))


def fail(breaker: CircuitBreaker, n: int) -> None:
    for _ in range(n):
        breaker.enter()
        breaker.failure()


def test_it_opens_after_five_failures_in_a_row(breaker: CircuitBreaker):
    fail(breaker, 4)
    breaker.success()
    fail(breaker, 4)
    assert breaker.state == "closed"
    fail(breaker, 1)
    assert breaker.state == "open"
    with pytest.raises(CloudError) as caught:
        breaker.enter()
    assert caught.value.reason == "open_circuit"


def test_it_opens_when_half_of_ten_calls_within_a_minute_fail(clock: Clock):
    for seconds, state in ((5, "open"), (20, "closed")):
        breaker = CircuitBreaker(clock, random.Random(1))
        for i in range(10):
            clock.now += seconds
            (breaker.failure if i % 2 else breaker.success)()
        assert breaker.state == state


def test_it_stays_open_longer_each_time_up_to_15_minutes_and_20_percent(
    breaker: CircuitBreaker, clock: Clock
):
    fail(breaker, 5)
    for expected in (30, 60, 120, 240, 480, 900, 900):
        clock.now += expected * 0.79
        assert breaker.state == "open"
        clock.now += expected * 0.42
        assert breaker.state == "half_open"
        fail(breaker, 1)
    clock.now += 1081
    breaker.enter()
    breaker.success()
    fail(breaker, 5)
    clock.now += 37
    assert breaker.state == "half_open", "a success starts anew"


def test_one_of_many_threads_probes(breaker: CircuitBreaker, clock: Clock):
    fail(breaker, 5)
    clock.now += 40
    entered = []

    def probe() -> None:
        try:
            breaker.enter()
            entered.append(1)
        except CloudError:
            pass

    threads = [threading.Thread(target=probe) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entered) == 1
    breaker.abandon()
    breaker.enter()  # a probe that said nothing makes room for another
    breaker.success()
    assert breaker.state == "closed"
