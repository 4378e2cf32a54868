"""Damage behind valid hashes: every mutant is answered or refused, at little cost, touching nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from c_builds import find_tool
from mutants import KINDS

HERE = Path(__file__).parent
REPORTS = HERE.parents[1] / "reports"
STAGES = ("zip", "manifest", "hashes", "table", "golden", "tokenizer", "onnx_walker", "tokenizer_library",
          "onnx_session", "answer", "accepted")  # fmt: skip
LOADED = STAGES[STAGES.index("tokenizer_library") :]  # our readers took all of it
MAX_SECONDS = 2.0
MAX_EXCESS = 1 << 20
N_WORKERS = 2
CALLS = "open,openat,openat2,creat,access,faccessat,faccessat2"
STRACE = ["-f", "-qq", "--seccomp-bpf", "-e", f"trace={CALLS}", "-o"]


def open_mutants(bundle: Path, folder: Path, first: int, end: int) -> list[list[str]]:
    """The workers' lines for the mutants first..end-1; a crash or a hang fails the test, with its mutant."""
    strace = find_tool("strace")  # which files are opened is half of the claim
    workers = []
    # Who asks for backtraces makes a panic in Rust open debug information, which is no mutant's doing.
    environment = {**os.environ, "PYTHONPATH": str(HERE), "RUST_BACKTRACE": "0"}
    for i in range(N_WORKERS):
        (home := folder / f"{first}-{i}").mkdir()
        command = [sys.executable, "-X", "faulthandler", HERE / "mutant_worker.py", bundle, home]
        command += [str(number) for number in (first + i, N_WORKERS, end)]
        command = [strace, *STRACE, home / "trace", *command]
        with (home / "out").open("w") as out, (home / "err").open("w") as err:
            workers.append((home, subprocess.Popen(command, stdout=out, stderr=err, env=environment)))
    lines = []
    for home, worker in workers:
        status = worker.wait(timeout=60 + 3 * (end - first))
        told = (home / "out").read_text().splitlines()
        assert status == 0, f"status {status} at mutant {told[-1:]}: {(home / 'err').read_text()[-3000:]}"
        lines += [line.split() for line in told]
        assert opened_elsewhere(home) == set()
        shutil.rmtree(home)
    assert len(lines) == end - first
    return lines


def opened_elsewhere(home: Path) -> set[str]:
    """Paths beside the mutant's that the system was asked for. load() first learns how much memory is left,
    from the same files as without any bundle; from the mutant's opening on, nothing else may be opened."""
    mutant = str(home / "mutant.es2s")
    _, mark, traced = (home / "trace").read_text().partition('"/free memory"')
    assert mark
    *marked, at_exit = re.split(r'"/mutant (-?\d+) (\w+)"', traced)
    stages = marked[2::3]
    assert stages[0] == "memory"
    free_memory = opened_in(marked[0])
    assert mutant not in free_memory
    elsewhere = {*opened_in(at_exit)}
    for stage, by_mutant in zip(stages[1:], marked[3::3], strict=True):
        read, mark, loaded = by_mutant.partition('"/load"')
        assert mutant in opened_in(read)
        assert bool(mark) == (stage in LOADED)
        before, after = split_at(mutant, opened_in(loaded))
        assert before == (free_memory if stage in LOADED else [])
        elsewhere |= {*opened_in(read), *after} - {mutant}
    return elsewhere


def split_at(path: str, paths: list[str]) -> tuple[list[str], list[str]]:
    """What comes before a path, and the path with what follows."""
    at = paths.index(path) if path in paths else len(paths)
    return paths[:at], paths[at:]


def opened_in(trace: str) -> list[str]:
    return re.findall(r'\b(?:open|openat|openat2|creat)\((?:AT_FDCWD, |\d+, )?"([^"]*)"', trace)


def check(lines: list[list[str]]) -> Counter[str]:
    """How many mutants ended at each stage."""
    slow = [line for line in lines if float(line[3]) > MAX_SECONDS]
    greedy = [line for line in lines if int(line[4]) > MAX_EXCESS]
    assert not slow
    assert not greedy
    return Counter(line[2] for line in lines)


def accepted_damage(lines: list[list[str]]) -> list[list[str]]:
    """Damage to the container, which the hashes must notice, and yet it was opened."""
    return [line for line in lines if line[1] in ("bytes", "zip") and line[2] in ("answer", "accepted")]


def test_mutants_are_answered_or_refused(tiny_bundle, tmp_path):
    lines = open_mutants(tiny_bundle, tmp_path, 0, 160)
    ended = check(lines)
    assert ended.keys() <= {*STAGES}
    assert all(ended[stage] for stage in ("zip", "manifest", "hashes", "table", "onnx_session", "accepted"))
    assert not accepted_damage(lines)


@pytest.mark.release
@pytest.mark.timeout(4 * 3600)
def test_twenty_thousand_mutants_are_answered_or_refused(tiny_bundle, tmp_path):
    start, n_mutants, batch = time.perf_counter(), 20_000, 1000
    lines = []
    for first in range(0, n_mutants, batch):
        lines += open_mutants(tiny_bundle, tmp_path, first, first + batch)
    ended = check(lines)
    assert not accepted_damage(lines)
    reached = {stage: sum(ended[later] for later in STAGES[i:]) for i, stage in enumerate(STAGES)}
    needed = ("zip", "manifest", "table", "tokenizer", "onnx_walker", "onnx_session")
    report = {
        "n_mutants": len(lines),
        "n_crashes": 0,
        "n_hangs": 0,
        "n_opened_elsewhere": 0,
        "most_seconds": max(float(line[3]) for line in lines),
        "most_bytes_beyond_twice_the_size": max(int(line[4]) for line in lines),
        "reached": reached,
        "kinds": {kind: dict(Counter(line[2] for line in lines if line[1] == kind)) for kind in KINDS},
        "seconds": round(time.perf_counter() - start),
    }
    REPORTS.mkdir(exist_ok=True)
    (REPORTS / "mutants.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    assert all(reached[stage] >= 500 for stage in needed)
