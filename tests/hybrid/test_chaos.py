"""Every fault of `chaos.py`, in three protocols, whole and as streams: an error with a reason, in time."""

import gc
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edge_s2s.errors import CloudError
from edge_s2s.hybrid.client import CloudClient
from hybrid.chaos import FLOODS, NUMBERS, faults, resolve
from hybrid.peers import ANSWER, PROTOCOLS

REPORT = Path(__file__).parents[2] / "reports" / "hybrid_chaos.json"
DEADLINE_S = 0.6
LATE_S = 0.1
CAP = 1 << 18


class Heartbeat:
    """Measures how late this busy machine wakes a thread that sleeps 10 ms."""

    def __enter__(self) -> "Heartbeat":
        self._beats: list[tuple[float, float]] = []  # when, how late
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._stop.is_set():
            start = time.monotonic()
            time.sleep(0.01)
            self._beats.append((start, time.monotonic() - start - 0.01))

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def lateness(self, start: float, end: float) -> float:
        """The sum, as one call waits several times."""
        return sum(late for moment, late in self._beats if start - 0.1 <= moment <= end and late > 0.002)


@pytest.fixture(scope="module", autouse=True)
def resolver() -> Iterator[None]:
    """Names of this test resolve here, slowly or not at all: the resolver itself is not ours to test."""
    patch = pytest.MonkeyPatch()
    patch.setattr(socket, "getaddrinfo", resolve(socket.getaddrinfo, 2 * DEADLINE_S))
    yield
    patch.undo()


def call(name: str, protocol: str, stream: bool, folder: Path) -> tuple[str | None, float, float]:
    """The reason that a call ends with, or None for the right answer, and when it began and ended."""
    make, _ = faults()[name]
    with make() as config_of:
        config = config_of(protocol)
        config = type(config)(**{**vars(config), "state_dir": str(folder), "max_response_bytes": CAP})
        client = CloudClient(config)
        start = time.monotonic()
        reason = None
        try:
            answer = client.complete("A text.", max_new_tokens=40, deadline=start + DEADLINE_S, stream=stream)
            assert answer.text == ANSWER
        except CloudError as error:
            reason = error.reason
        return reason, start, time.monotonic()


def n_sockets() -> int:
    found = 0
    for fd in Path("/proc/self/fd").iterdir():
        try:
            found += str(fd.readlink()).startswith("socket:")
        except OSError:
            continue
    return found


def left_over(condition: Callable[[], bool], limit_s: float = 10) -> bool:
    """Whether a condition still does not hold after some time."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return False
        time.sleep(0.05)
    return True


def test_all_24_faults_are_there():
    assert sorted(NUMBERS) == list(range(1, 25))


def try_all(folder: Path, n_rounds: int = 1) -> dict[str, int]:
    """Every fault but the floods, in every form, at the same time; raises for what must not be."""
    all_faults = faults()
    names = [name for name in all_faults if name not in FLOODS]
    cases = [(name, p, s) for name in names for p in PROTOCOLS for s in (False, True)] * n_rounds
    before = n_sockets()
    with Heartbeat() as heartbeat, ThreadPoolExecutor(12) as pool:
        results = list(pool.map(lambda i: call(*cases[i], folder / str(i)), range(len(cases))))
    for (name, protocol, stream), (reason, start, end) in zip(cases, results, strict=True):
        case = f"{name}, {protocol}, {'stream' if stream else 'unary'}: {reason}"
        if reason == "timeout" not in all_faults[name][1]:  # a busy machine; alone it must be right
            reason, _, _ = call(name, protocol, stream, folder / "again")
        assert reason in all_faults[name][1], case
        over = end - start - DEADLINE_S
        assert over <= LATE_S + heartbeat.lateness(start, end), f"{case}, {1000 * over:.0f} ms late"
    assert not left_over(lambda: "edge_s2s cloud" not in {thread.name for thread in threading.enumerate()})
    gc.collect()
    left_over(lambda: n_sockets() <= before)
    return {"faults": len(NUMBERS), "calls": len(cases), "sockets_left": max(0, n_sockets() - before)}


def test_every_call_ends_by_its_deadline_with_a_reason_and_leaves_no_socket(tmp_path: Path):
    assert try_all(tmp_path)["sockets_left"] == 0


@pytest.mark.release
def test_so_do_a_thousand_calls(tmp_path: Path):
    counts = try_all(tmp_path, n_rounds=5)
    REPORT.write_text(json.dumps({**counts, "deadline_s": DEADLINE_S, "late_s": LATE_S}, indent=2) + "\n")
    assert counts["calls"] >= 1000
    assert counts["sockets_left"] == 0


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_costs_at_most_twice_the_cap(name: str, tmp_path: Path):
    for protocol in PROTOCOLS:
        for stream in (False, True):
            tracemalloc.start()
            try:
                reason, start, end = call(name, protocol, stream, tmp_path / f"{protocol}{stream}")
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert reason in faults()[name][1], (protocol, stream, reason)
            # What the server of the test itself holds: a piece of 64 KiB, or the bomb before it is packed.
            own = (11 << 20) if "bomb" in name else 1 << 18
            assert peak <= 2 * CAP + own, (protocol, stream, peak)
            assert end - start < DEADLINE_S + 2, "under tracemalloc everything is slow"
