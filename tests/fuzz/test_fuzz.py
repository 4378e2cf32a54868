"""No input makes a reader or the core do what it must not, and the fuzzers would notice if one did.

The short form runs for seconds; `-m release` for millions of inputs, and writes reports/fuzz.json.
"""

import json
from pathlib import Path
from typing import Any

import pytest

import fuzzers
from c_builds import ROOT
from planted_bugs import IN_C

MAX_SECONDS_TO_FIND = 60
N_ROUNDS, N_RUNS = 32, 100_000  # of each target


def keep(section: str, name: str, figures: dict[str, Any]) -> None:
    """Adds to the report."""
    path = ROOT / "reports" / "fuzz.json"
    path.parent.mkdir(exist_ok=True)
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    report.setdefault(section, {})[name] = figures
    path.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def fuzz_in_rounds(targets: dict[str, tuple[fuzzers.Command, Path]], *, n_rounds: int, n_runs: int) -> None:
    """Each target (command, inputs) in turn, `n_runs` at a time: a run that is ended early has its report."""
    counts = {name: {"n_inputs": 0, "n_findings": 0, "seconds": 0} for name in targets}
    for seed in range(1, n_rounds + 1):
        for name, (command, inputs) in targets.items():
            outcome = fuzzers.fuzz(command, inputs, runs=n_runs, seed=seed)
            assert not outcome.found, outcome.told
            counts[name]["n_inputs"] += outcome.counts["number_of_executed_units"]
            counts[name]["seconds"] += round(outcome.seconds)
            keep("targets", name, counts[name])


@pytest.mark.parametrize("target", fuzzers.C_TARGETS)
def test_nothing_is_found_in_the_core_in_seconds(target: str, tmp_path: Path):
    outcome = fuzzers.fuzz(fuzzers.c_fuzzer(target), fuzzers.write_c_seeds(tmp_path / "corpus"), runs=2000)
    assert not outcome.found, outcome.told
    assert outcome.counts["number_of_executed_units"] >= 2000
    assert outcome.counts["new_units_added"] > 20, "nothing behind the first checks was reached"


def test_a_fuzzer_is_not_charged_with_the_memory_of_who_starts_it(tmp_path: Path):
    ballast = b"x" * (1200 << 20)  # above its limit
    outcome = fuzzers.fuzz(fuzzers.c_fuzzer("weights"), fuzzers.write_c_seeds(tmp_path / "corpus"), runs=2000)
    assert ballast
    assert not outcome.found, outcome.told
    assert outcome.counts["peak_rss_mb"] < 1000


def find_in_c(letter: str, folder: Path) -> fuzzers.Outcome:
    command = fuzzers.planted_c_fuzzer(IN_C[letter], folder)
    corpus = fuzzers.write_c_seeds(folder / "corpus")
    return fuzzers.fuzz(command, corpus, max_total_time=MAX_SECONDS_TO_FIND)


@pytest.mark.parametrize("letter", IN_C)
def test_each_bug_can_still_be_planted(letter: str):
    bug = IN_C[letter]
    assert bug.source() != (ROOT / bug.file).read_text(encoding="utf-8")


@pytest.mark.parametrize("letter", ["E", "L", "M"])
def test_a_planted_bug_is_found(letter: str, tmp_path: Path):
    assert find_in_c(letter, tmp_path).found


@pytest.mark.release
@pytest.mark.timeout(8 * 3600)
def test_nothing_is_found_in_the_core_in_a_long_run(tmp_path: Path):
    targets = {
        f"core: {target}": (fuzzers.c_fuzzer(target), fuzzers.write_c_seeds(tmp_path / target))
        for target in fuzzers.C_TARGETS
    }
    fuzz_in_rounds(targets, n_rounds=N_ROUNDS, n_runs=N_RUNS)


@pytest.mark.release
@pytest.mark.parametrize("letter", IN_C)
def test_every_planted_bug_of_the_core_is_found(letter: str, tmp_path: Path):
    outcome = find_in_c(letter, tmp_path)
    assert outcome.found
    keep("planted", letter, {"what": IN_C[letter].what, "seconds": round(outcome.seconds, 1)})
