import json
import subprocess
import sys
from pathlib import Path

import pytest

from edge_s2s.errors import CloudError
from edge_s2s.hybrid.usage import FILE, CloudUsage

DAY = 86_400.0
NOW = 20_000 * DAY + 100


class Clock:
    """A clock that a test moves."""

    now = NOW

    def __call__(self) -> float:
        return self.now


def usage(
    folder: Path, clock: Clock | None = None, *, requests: int = 3, tokens: int = 100, per_minute: int = 1000
) -> CloudUsage:
    return CloudUsage(
        folder,
        max_requests=requests,
        max_tokens=tokens,
        max_requests_per_minute=per_minute,
        clock=clock or Clock(),
    )


def test_requests_and_tokens_are_capped_and_what_was_not_used_comes_back(tmp_path: Path):
    counted = usage(tmp_path / "new")
    counted.reserve(90)
    with pytest.raises(CloudError, match="max_tokens_per_day is 100; 90 are used, 20 more were needed"):
        counted.reserve(20)
    counted.settle(90, 30)
    counted.reserve(70)
    counted.reserve(0)
    with pytest.raises(CloudError, match="max_requests_per_day is 3"):
        counted.reserve(0)


def test_a_new_day_of_utc_counts_anew(tmp_path: Path):
    clock = Clock()
    counted = usage(tmp_path, clock)
    counted.reserve(90)
    clock.now = 20_001 * DAY - 1
    assert counted.read().n_tokens == 90
    clock.now += 1
    assert counted.read().n_tokens == 0


def test_a_minute_has_a_bucket_of_requests_that_fills_evenly(tmp_path: Path):
    clock = Clock()
    for _ in range(10):
        usage(tmp_path, clock, requests=99, per_minute=10).reserve(1)
    counted = usage(tmp_path, clock, requests=99, per_minute=10)
    with pytest.raises(CloudError, match=r"max_requests_per_minute is 10, .*; one more in 6\.0 s") as caught:
        counted.reserve(1)
    assert caught.value.reason == "budget"
    assert counted.read().n_requests == 10, "what was not sent is not counted"
    clock.now += 6
    counted.reserve(1)
    with pytest.raises(CloudError, match="max_requests_per_minute"):
        counted.reserve(1)
    clock.now += DAY
    for _ in range(10):
        counted.reserve(1)
    with pytest.raises(CloudError, match="max_requests_per_minute"):
        counted.reserve(1)


@pytest.mark.parametrize("jump", [-DAY, -NOW, DAY / 2])
def test_a_clock_that_was_set_gives_one_bucket_at_most_and_locks_nobody_out(jump: float, tmp_path: Path):
    clock = Clock()
    counted = usage(tmp_path, clock, requests=99, per_minute=2)
    for _ in range(2):
        counted.reserve(1)
    clock.now += jump
    for _ in range(2):
        counted.reserve(1)
    with pytest.raises(CloudError, match="per_minute"):
        counted.reserve(1)
    clock.now += 30
    counted.reserve(1)


def test_a_minute_without_requests_allows_none(tmp_path: Path):
    with pytest.raises(CloudError, match="max_requests_per_minute is 0, all of them sent"):
        usage(tmp_path, per_minute=0).reserve(1)


@pytest.mark.parametrize("jump", [-3600, -DAY, -365 * DAY, -NOW])
def test_a_clock_that_was_set_back_resets_nothing(jump: float, tmp_path: Path):
    clock = Clock()
    counted = usage(tmp_path, clock)
    counted.reserve(90)
    clock.now += jump
    assert counted.read().n_tokens == 90


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"day": 1}', '{"day": 20000, "n_requests": -9, "n_tokens": 0}']
)
def test_a_damaged_file_forbids_requests_instead_of_counting_from_zero(text: str, tmp_path: Path):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(CloudError, match="remove it"):
        usage(tmp_path).reserve(1)


def test_a_folder_that_cannot_be_written_forbids_requests(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(CloudError, match="cannot count"):
        usage(tmp_path / "file").reserve(1)


def test_processes_that_count_at_the_same_time_lose_nothing(tmp_path: Path):
    code = (
        "import sys, pathlib; from edge_s2s.hybrid.usage import CloudUsage\n"
        "counted = CloudUsage(pathlib.Path(sys.argv[1]), max_requests=999, max_tokens=9999,\n"
        "                     max_requests_per_minute=999)\n"
        "for _ in range(50): counted.reserve(2)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    counts = json.loads((tmp_path / FILE).read_text())
    assert (counts["n_requests"], counts["n_tokens"]) == (200, 400)
