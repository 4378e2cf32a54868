"""Many threads, forks, cancels and requests: the same answers, no hang, nothing that grows.

The short form of each is run every time; `-m release` runs the long one and writes reports/endurance.json.
"""

import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_s2s import GenerationOptions, Seq2SeqModel, load
from edge_s2s_export.probe_texts import probe_texts

TEXTS = probe_texts(40)
REPORT = Path(__file__).parent.parent / "reports" / "endurance.json"
SLOW = GenerationOptions(max_new_tokens=500, min_new_tokens=500)
HANG = 10.0  # seconds; a forked child needs milliseconds

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


def answers(model: Seq2SeqModel, text: str, num_beams: int) -> list[tuple[tuple[int, ...], float]]:
    options = GenerationOptions(num_beams=num_beams, num_return_sequences=num_beams)
    [results] = model.generate([text], options)
    return [(result.token_ids, result.score) for result in results]


def run_in_threads(model: Seq2SeqModel, n_threads: int, n_requests: int) -> None:
    """Each thread asks in an order of its own, greedy and beams in turn."""
    questions = [(text, num_beams) for text in TEXTS for num_beams in (1, 3)]
    expected = [answers(model, *question) for question in questions]

    def ask(thread: int) -> bool:
        order = [(thread * 7 + i) % len(questions) for i in range(n_requests)]
        return all(answers(model, *questions[i]) == expected[i] for i in order)

    with ThreadPoolExecutor(n_threads) as pool:
        assert all(pool.map(ask, range(n_threads)))


def run_forks(path: Path, n_forks: int) -> None:
    """Forks while other threads are at work; the child loads its own model, the parent's is refused."""
    with load(path, num_threads=2) as model:
        expected = answers(model, TEXTS[0], 1)
        is_over = threading.Event()

        def work() -> None:
            while not is_over.is_set():
                model.generate(TEXTS[:1])

        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers:
            worker.start()
        try:
            for i in range(n_forks):
                if (child := os.fork()) == 0:
                    signal.alarm(int(HANG))  # a hang ends as a signal, not as 7
                    try:
                        model.generate(TEXTS[:1])
                        os._exit(1)
                    except RuntimeError:
                        os._exit(7 if i % 2 or loads_its_own(path, expected) else 2)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7, i
        finally:
            is_over.set()
            for worker in workers:
                worker.join()


def loads_its_own(path: Path, expected: object) -> bool:
    return answers(load(path, num_threads=2), TEXTS[0], 1) == expected


def run_cancels(model: Seq2SeqModel, n_cancels: int) -> list[float]:
    """Seconds from `close` of a stream, at random moments of its work, until it has ended."""
    rng = np.random.default_rng(0)
    expected = answers(model, TEXTS[0], 1)
    seconds = []
    for i in range(n_cancels):
        options = GenerationOptions(max_new_tokens=500, min_new_tokens=500, num_beams=1 + 3 * (i % 2))
        stream = model.stream(TEXTS[i % len(TEXTS)], options)
        asker = threading.Thread(target=lambda stream=stream: next(stream, None))  # the work has begun
        asker.start()
        asker.join()
        time.sleep(rng.uniform(0, 0.01))
        start = time.perf_counter()
        stream.close()
        seconds.append(time.perf_counter() - start)
    assert answers(model, TEXTS[0], 1) == expected
    assert not [thread for thread in threading.enumerate() if thread.name == "edge_s2s"]
    return seconds


def run_requests(model: Seq2SeqModel, n_requests: int) -> dict[str, int]:
    """What grows between a warm-up and the end: bytes of memory, file descriptors, threads."""

    def ask(n: int) -> None:
        for i in range(n):
            answers(model, TEXTS[i % len(TEXTS)], 1 + i % 2)

    def state() -> tuple[int, int, int]:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE"), count("/proc/self/fd"), count("/proc/self/task")

    ask(max(n_requests // 10, 100))
    before = state()
    ask(n_requests)
    return dict(zip(("rss", "descriptors", "threads"), np.subtract(state(), before).tolist(), strict=True))


def count(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


# -------------------------------------------------- short ---------------------------------------------------


def test_threads_get_the_answers_of_serial_calls(model: Seq2SeqModel):
    run_in_threads(model, n_threads=8, n_requests=20)


def test_no_fork_hangs(tiny_bundle: Path):
    run_forks(tiny_bundle, 8)


def test_a_cancelled_stream_ends_and_the_model_goes_on(model: Seq2SeqModel):
    run_cancels(model, 40)  # how soon, the release form tells


def test_nothing_grows_with_the_number_of_requests(model: Seq2SeqModel):
    grown = run_requests(model, 500)
    assert grown["rss"] <= 1 << 20
    assert (grown["descriptors"], grown["threads"]) == (0, 0)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_threads_are_as_many_as_asked_for_and_end_with_the_model(tiny_bundle: Path, num_threads: int):
    """onnxruntime and the core never run at once and each keeps its own; the caller is one of both."""
    before = settled_threads()
    with load(tiny_bundle, num_threads=num_threads) as model:
        for num_beams in (1, 4):
            answers(model, TEXTS[0], num_beams)
            assert settled_threads() - before == 2 * (num_threads - 1)
    assert settled_threads() == before


def settled_threads() -> int:
    """Threads of this process, once those that have ended are gone from the kernel's list too."""
    counts = [count("/proc/self/task")]
    for _ in range(5):
        time.sleep(0.02)
        counts.append(count("/proc/self/task"))
    return min(counts)


# --------------------------------------------------- long ---------------------------------------------------


@pytest.mark.timeout(3600)
@pytest.mark.release
def test_threads_forks_cancels_and_requests_at_length(model: Seq2SeqModel, tiny_bundle: Path):
    report: dict[str, Any] = {}

    def timed(name: str, work: Callable[[], Any], **counts: int) -> Any:
        start = time.perf_counter()
        result = work()
        report[name] = {**counts, "seconds": round(time.perf_counter() - start, 1)}
        return result

    n_threads, n_requests = 32, 200
    timed(
        "threads",
        lambda: run_in_threads(model, n_threads, n_requests),
        n_threads=n_threads,
        n_requests_each=n_requests,
        n_different=0,
    )
    timed("forks", lambda: run_forks(tiny_bundle, 200), n_forks=200, n_hangs=0)
    seconds = timed("cancels", lambda: run_cancels(model, 1000), n_cancels=1000)
    report["cancels"]["p99_ms"] = round(float(np.quantile(seconds, 0.99)) * 1000, 2)
    grown = timed("requests", lambda: run_requests(model, 20_000), n_requests=20_000)
    report["requests"] |= grown
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    assert report["cancels"]["p99_ms"] <= 50
    assert grown["rss"] <= 1 << 20
    assert (grown["descriptors"], grown["threads"]) == (0, 0)
