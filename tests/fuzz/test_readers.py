"""The readers in Python: inputs that are kept pass, a few seconds of others too, and planted bugs do not."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fuzzers
from fuzz_readers import blind
from planted_bugs import IN_PYTHON
from readers import CORPUS, TARGETS, corpus
from test_fuzz import MAX_SECONDS_TO_FIND, fuzz_in_rounds, keep

HERE = Path(__file__).parent
LIMITS = ("-max_len=65536", "-timeout=5", "-rss_limit_mb=2048")
N_ROUNDS, N_RUNS = 5, 20_000  # of each target


def command(target: str, *options: str) -> fuzzers.Command:
    return (sys.executable, HERE / "fuzz_readers.py", target, *options)


@pytest.fixture(autouse=True)
def imports(monkeypatch: pytest.MonkeyPatch):
    """What pytest lets tests import, for programs too; and no traces of panics, which are thousands."""
    tests = HERE.parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (tests, tests / "attacks", HERE))))
    monkeypatch.setenv("RUST_BACKTRACE", "0")


@pytest.mark.parametrize("target", TARGETS)
def test_the_kept_inputs_pass(target: str):
    inputs = corpus(target)
    assert len(inputs) >= 2
    for data in inputs:
        TARGETS[target].check(data)


@pytest.mark.parametrize("target", TARGETS)
def test_some_mutants_of_them_pass(target: str):
    blind(target, 500)


@pytest.mark.parametrize("letter", IN_PYTHON)
def test_a_planted_bug_is_found_in_python(letter: str):
    arguments = command(IN_PYTHON[letter].target, "--planted", letter, "--blind", "10000")
    run = subprocess.run(arguments, capture_output=True, text=True)
    assert run.returncode == 1
    assert "Error" in run.stderr.splitlines()[-1]


def guided(target: str, inputs: Path, *options: str) -> tuple[fuzzers.Command, Path]:
    """The command for a target, and a copy of what is kept for it, which may grow."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("needs atheris: pip install 'edge_s2s[fuzz]'")
    shutil.copytree(CORPUS / target, inputs)
    return command(target, *options, *LIMITS), inputs


@pytest.mark.release
@pytest.mark.timeout(8 * 3600)
def test_nothing_is_found_in_python_in_a_long_run(tmp_path: Path):
    targets = {target: guided(target, tmp_path / target) for target in TARGETS}
    fuzz_in_rounds(targets, n_rounds=N_ROUNDS, n_runs=N_RUNS)


@pytest.mark.release
@pytest.mark.parametrize("letter", IN_PYTHON)
def test_every_planted_bug_is_found_in_python(letter: str, tmp_path: Path):
    bug = IN_PYTHON[letter]
    fuzzer, inputs = guided(bug.target, tmp_path / "inputs", "--planted", letter)
    outcome = fuzzers.fuzz(fuzzer, inputs, max_total_time=MAX_SECONDS_TO_FIND)
    assert outcome.found
    keep("planted", letter, {"what": bug.what, "seconds": round(outcome.seconds, 1)})
