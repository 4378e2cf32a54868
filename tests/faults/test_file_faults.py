"""Every file-system call of the bundle writer fails, stops half-way or is its last, and the power goes;
every one of a reader fails.

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

import edge_s2s
from edge_s2s.bundle import open_bundle, write_bundle

HERE = Path(__file__).parent
REPORT = HERE.parent.parent / "reports" / "file_faults.json"
READ_REPORT = REPORT.with_name("read_faults.json")
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


def run_with_faults(library: Path, program: str, *arguments: str | Path) -> dict[str, Any]:
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, HERE / program, *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    report: dict[str, Any] = json.loads(run.stdout)
    assert report["broken"] == []
    return report


def write_with_every_fault(library: Path, folder: Path, form: str, mode: str) -> dict[str, Any]:
    report = run_with_faults(library, "write_with_faults.py", folder, form, mode)
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


def read_with_every_fault(library: Path, path: Path) -> dict[str, Any]:
    report = run_with_faults(library, "read_with_faults.py", path)
    assert report["hits"].keys() == {"open", "fstat", "mmap", "dup"}, "a call that was not tried, or is new"
    assert report["outcomes"].keys() >= {"BundleError", "MemoryError"}
    return report


def as_directory(bundle: Path, path: Path) -> Path:
    """The same bundle as a directory."""
    with open_bundle(bundle) as opened:
        write_bundle(
            path, opened.manifest, {name: bytes(opened.read(name)) for name in opened.manifest.files}
        )
    return path


@pytest.mark.parametrize("form", ["es2s", "directory"])
def test_a_failing_call_of_a_reader_is_a_typed_error_and_leaks_nothing(
    library: Path, tiny_bundle: Path, tmp_path: Path, form: str
):
    path = tiny_bundle if form == "es2s" else as_directory(tiny_bundle, tmp_path / "bundle")
    read_with_every_fault(library, path)


@pytest.mark.release
def test_a_failing_call_of_a_reader_of_the_default_bundle_is_a_typed_error_and_leaks_nothing(
    library: Path, tmp_path: Path
):
    default = edge_s2s.default_bundle_path(must_exist=True)
    directory = as_directory(default, tmp_path / "bundle")
    reports = {
        form: read_with_every_fault(library, path)
        for form, path in {"es2s": default, "directory": directory}.items()
    }
    READ_REPORT.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")


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
