"""The package's own tests inside an ARM Python under qemu, with ARM wheels of the runtime's dependencies.

arm64/make_root.sh makes the folder with that Python. It runs every test file that needs no more than what is
installed there: with all modules of tests/ and of the exporter that it imports, however far away, neither
torch nor transformers nor a compiler. What the rule takes and that Python cannot do is in LEFT_OUT.
Each file is a test of its own with a record of its own in the report; several processes may share the work.
"""

import ast
import fcntl
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

from c_builds import EMULATED, ROOT, arm64_python, run
from edge_s2s_export.convert import convert
from tiny_folders import PREFIX

REPORT = ROOT / "reports" / "arm64_suite.json"
CPU = "cortex-a76"
TESTS = ROOT / "tests"
FOLDERS = [TESTS / "attacks", TESTS / "fuzz", TESTS, ROOT / "export", ROOT]  # that Python imports from
INSTALLED = {
    "numpy",
    "onnxruntime",
    "tokenizers",
    "cffi",
    "pytest",
    "hypothesis",
    "zstandard",
    "cryptography",
    "llguidance",
}
COMPILER = "c_builds"  # the module that finds one
MANY = "starts many processes, each of which takes seconds to start under emulation"
COMMAND = "runs the command that is installed for this machine"
LEFT_OUT = {
    "tests/faults/": "preloads a library of this machine into the process",
    "tests/test_lint.py": "reads the tree, which is the same here, with tools that are not installed there",
    "tests/test_docs.py::test_shell_examples_of_the_readme_run": COMMAND,
    "tests/test_docs.py::test_c_example_gives_the_same_tokens_as_python": "compiles for this machine",
    "tests/test_docs.py::test_the_table_of_promises_shows_the_reports": "shows what this very run counts",
    "tests/test_jsonl.py::test_dialogsum_valid_survives_20_kills": MANY,
    "tests/test_jsonl.py::test_killed_at_20_random_moments_the_output_is_that_of_one_run": MANY,
    "tests/test_bundle.py::test_a_writer_killed_at_any_file_operation_leaves_a_whole_bundle": MANY,
    "tests/test_drift.py::test_a_bundle_with_a_reference_counts_what_it_reads": MANY,
    "tests/test_bundle.py::test_opening_twelve_megabytes_costs_little_more_than_hashing_them": (
        "compares times"
    ),
    "tests/test_bundle.py::test_a_file_that_there_is_no_room_to_map_is_a_memory_error": (
        "limits the address space, of which qemu needs more than the test leaves"
    ),
    "tests/test_memory.py::test_the_estimate_is_what_the_default_bundle_takes": (
        "measures the memory of qemu too, which keeps what it translated: 149 MiB instead of 84"
    ),
    "tests/test_endurance.py::test_nothing_grows_with_the_number_of_requests": (
        "measures the memory of qemu too, whose own heap grows while the program's does not"
    ),
    "tests/test_text_robustness.py::test_long_texts_of_one_kind_become_tokens"
    "[what NFKC makes 18 characters of]": "may take 10 s, and takes 13 emulated",
    "tests/hybrid/test_model.py::test_a_deadline_keeps_a_part_for_the_model_when_the_cloud_is_silent": (
        "its deadline is shorter than an emulated model takes"
    ),
    "tests/hybrid/test_readme.py::test_the_shell_example_prints_a_summary": COMMAND,
}


@cache
def module_file(name: str) -> Path | None:
    """Where a module of this repository is."""
    for folder in FOLDERS:
        path = folder.joinpath(*name.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.exists():
                return file
    return None


@cache
def imports(file: Path) -> list[str]:
    """Names of modules that a file imports anywhere in it."""
    return [*_imports(file)]


def _imports(file: Path) -> Iterator[str]:
    folder = next(folder for folder in FOLDERS if folder in file.parents)
    package = file.relative_to(folder).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*start, *(node.module or "").split(".")]).rstrip(".")
            yield base
            yield from (name for alias in node.names if module_file(name := f"{base}.{alias.name}"))


def needs(test: Path) -> set[str]:
    """What a test file needs beside Python and edge_s2s: names of packages, and COMPILER."""
    found, seen, todo = set(), set(), [test]
    while todo:
        if (file := todo.pop()) in seen:
            continue
        seen.add(file)
        for name in imports(file):
            top = name.partition(".")[0]
            if name == COMPILER:
                found.add(COMPILER)
            elif top in sys.stdlib_module_names or top == "edge_s2s":
                continue
            elif module_file(name):
                parts = name.split(".")
                packages = (module_file(".".join(parts[:n])) for n in range(1, len(parts) + 1))
                todo += [package for package in packages if package]
            else:
                found.add(top)
    return found


def chosen() -> list[str]:
    """Test files by their names within tests/, without those that are left out as a whole."""
    names = {file: f"tests/{file.relative_to(TESTS).as_posix()}" for file in sorted(TESTS.rglob("test_*.py"))}
    files = [file for file, name in names.items() if not name.startswith((*LEFT_OUT,))]
    return [names[file].removeprefix("tests/") for file in files if needs(file) <= INSTALLED]


FILES = chosen()


def test_the_rule_takes_the_files_that_need_no_torch_and_no_compiler():
    assert {"test_weights.py", "test_stream.py", "attacks/test_attacks.py", "export/test_golden.py"} <= {
        *FILES
    }
    names = {file.rpartition("/")[2] for file in FILES}
    assert not {"test_search_parity.py", "test_convert.py", "test_csrc.py", "test_cpu_parity.py"} & names
    assert needs(TESTS / "test_cpu_parity.py") >= {COMPILER, "numpy"}
    assert needs(TESTS / "test_tokenizer.py") >= {"torch", "transformers"}  # through tiny_folders.py


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_exists(name: str):
    file, _, test = name.partition("::")
    assert (ROOT / file).exists()
    assert not test or f"def {test.partition('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8")


def test_every_file_that_the_rule_takes_has_passed():
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    assert [name for name, found in report["files"].items() if found["failed"]] == []
    assert sorted(report["files"]) == sorted(FILES)
    assert report["left_out"] == LEFT_OUT


@pytest.mark.release
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("file", FILES)
def test_the_packages_tests_pass_on_64_bit_arm(file: str, tiny_folder: Path, tmp_path: Path):
    for name, dtype in (("tiny.es2s", "int8"), ("tiny_float.es2s", "float32")):
        if not (path := tiny_folder.parent / name).exists():
            convert(tiny_folder, path, dtype=dtype, name="tiny", prefix=PREFIX)
    python, xml = arm64_python(), tmp_path / "junit.xml"
    environment = {**os.environ, "QEMU_CPU": CPU, "EDGE_S2S_TINY": str(tiny_folder.parent)}
    options = ["-q", "-p", "no:cacheprovider", "--timeout=1800", "--durations=20", f"--junitxml={xml}"]
    left_out = [f"--deselect={name}" for name in LEFT_OUT]
    command = [python, "-m", "pytest", *options, f"tests/{file}", *left_out]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    print(result.stdout[-12_000:], result.stderr[-2000:])
    cases = [*ElementTree.parse(xml).iter("testcase")]
    failed = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    skips = [skip.get("message", "") for case in cases if (skip := case.find("skipped")) is not None]
    ask = "import platform, sys; print(platform.machine(), platform.python_version())"
    machine, version = run(str(python), "-c", ask, QEMU_CPU=CPU).split()
    assert machine == "aarch64"
    passed = len(cases) - failed - len(skips)
    found = {"passed": passed, "failed": failed, "skipped": dict(Counter(skips))}
    _record(file, found, {"cpu": CPU, "isa": EMULATED[CPU].isa, "python": version, "left_out": LEFT_OUT})
    # A file may hold nothing but long runs.
    assert result.returncode == (pytest.ExitCode.OK if cases else pytest.ExitCode.NO_TESTS_COLLECTED)


def _record(file: str, found: dict[str, object], common: dict[str, object]) -> None:
    """Writes one file's result into the report, which other processes may write too."""
    with REPORT.open("r+", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        report = json.load(stream)
        files = {**report["files"], file: found}
        report |= {**common, "files": {name: files[name] for name in sorted(files) if name in FILES}}
        stream.seek(0)
        stream.truncate()
        stream.write(json.dumps(report, indent=1) + "\n")
