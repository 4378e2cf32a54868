"""No damaged decoder.weights makes the C core read, write or compute what it must not."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from c_builds import ROOT, find_tool, run

FOLDER = ROOT / "build" / "fuzz"
TARGETS = ("weights", "decode", "out_of_memory")
LIMITS = ("-max_len=65536", "-timeout=2", "-rss_limit_mb=1024", "-malloc_limit_mb=64", "-print_final_stats=1")


@pytest.fixture(scope="module")
def built() -> Path:
    """Where the targets are; they stay in build/."""
    cmake, ninja, clang = find_tool("cmake"), find_tool("ninja"), find_tool("clang")
    options = [f"-DCMAKE_C_COMPILER={clang}", f"-DCMAKE_MAKE_PROGRAM={ninja}", "-DES2S_BUILD_FUZZERS=ON"]
    options += ["-DES2S_SANITIZE=fuzzer-no-link,address,undefined"]
    run(cmake, "-S", ROOT, "-B", FOLDER, "-G", "Ninja", *options)
    run(cmake, "--build", FOLDER)
    return FOLDER / "tests" / "fuzz"


def fuzz(built: Path, target: str, n_runs: int, folder: Path) -> dict[str, int]:
    """Fuzzes from the seeds; what libFuzzer counted. A finding fails, with its report."""
    run(built / "write_seeds", folder)
    command = [built / f"fuzz_{target}", *LIMITS, f"-runs={n_runs}", "-seed=1", folder]
    fuzzer = subprocess.run(command, capture_output=True, text=True, errors="replace")
    assert fuzzer.returncode == 0, fuzzer.stderr[-5000:]
    counted = re.findall(r"^stat::(\w+): +(\d+)$", fuzzer.stderr, re.MULTILINE)
    return {name: int(value) for name, value in counted}


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found_in_seconds(built: Path, target: str, tmp_path: Path):
    counted = fuzz(built, target, 2000, tmp_path)
    assert counted["number_of_executed_units"] >= 2000
    assert counted["new_units_added"] > 20, "nothing behind the first checks was reached"


@pytest.mark.release
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found_in_a_long_run(built: Path, target: str, tmp_path: Path):
    counted = fuzz(built, target, 3_500_000, tmp_path)
    report = ROOT / "reports" / "fuzz.json"
    report.parent.mkdir(exist_ok=True)
    figures = json.loads(report.read_text()) if report.exists() else {}
    figures[target] = {**counted, "n_findings": 0}
    report.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
