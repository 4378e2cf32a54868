"""Every file-system call of the bundle writer fails, stops half-way or is its last, and the power goes.

A preloaded library counts the calls below one folder, from Python and from libc, and makes the k-th one fail,
for every k. Whatever comes of it is the old bundle, the new one or a typed error, never a half bundle.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
REPORT = HERE.parent.parent / "reports" / "file_faults.json"
FAULTS = ("killed", "no space", "I/O error", "interrupted")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not sys.platform.startswith("linux"):
        pytest.skip("needs LD_PRELOAD and /proc")
    compiler = shutil.which("cc") or pytest.skip("needs cc")
    path = tmp_path_factory.mktemp("faults") / "file_faults.so"
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *options, "-o", path, HERE / "file_faults.c", "-ldl"], check=True)
    return path


def write_with_every_fault(library: Path, folder: Path, form: str, mode: str) -> dict[str, Any]:
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, HERE / "write_with_faults.py", folder, form, mode]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    report: dict[str, Any] = json.loads(run.stdout)
    assert report["broken"] == []
    counts = report["counts"]
    assert all(counts[fault] == counts["calls"] for fault in FAULTS), "a fault did not take place"
    assert counts["short"] >= 2
    assert report["broken without fsync"] > 0, "a power cut that nobody would notice proves nothing"
    return report


@pytest.mark.parametrize("mode", ["new", "replace"])
def test_an_es2s_file_is_whole_after_any_fault_in_any_call_and_any_power_cut(
    library: Path, tmp_path: Path, mode: str
):
    write_with_every_fault(library, tmp_path, "es2s", mode)


@pytest.mark.timeout(3600)
@pytest.mark.release
def test_a_bundle_of_either_form_is_whole_after_any_fault_in_any_call_and_any_power_cut(
    library: Path, tmp_path: Path
):
    reports = {}
    for form in ("es2s", "directory"):
        for mode in ("new", "replace"):
            folder = tmp_path / f"{form}-{mode}"
            folder.mkdir()
            reports[f"{form}, {mode}"] = write_with_every_fault(library, folder, form, mode)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
