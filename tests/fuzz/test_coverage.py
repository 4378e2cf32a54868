"""Nearly every line and branch of the readers is run by their tests and the inputs that are kept."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from c_builds import ROOT, find_tool, run

FOLDER = ROOT / "build" / "coverage"
MIN_LINES, MIN_BRANCHES = 95.0, 90.0  # percent, of each file
C_FILES = (
    "weights_file.c",
    "sha256.c",
    "loader.c",
    "model.c",
    "encoder_weights.c",
    "bundle_file.c",
    "manifest.c",
    "tokenizer.c",
    "tokenizer_steps.c",
    "unicode_table.c",
)
C_CHECKS = (
    "check_weights_file",
    "check_bundle_file",
    "check_manifest",
    "check_session",
    "check_encoder",
    "check_out_of_memory",
)
C_FLAGS = "-fprofile-instr-generate -fcoverage-mapping"
OPTIMIZE = "-O1"
READERS = (
    "stored_zip",
    "strict_json",
    "manifest",
    "weights",
    "encoder_weights",
    "onnx_graph",
    "charsmap",
    "bundle",
    "tokenizer",
)
# The part of tokenizer.py that reads a file; the rest makes ids and texts.
TOKENIZER_LOADER = ("Tokenizer.__init__", "_check_components", "_parts", "_check_part", "_growth")
TESTS = [f"tests/test_{name}.py" for name in READERS] + [
    "tests/test_native_encoder.py",
    "tests/attacks/test_attacks.py",
    "tests/fuzz/test_readers.py",
]
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}")

pytestmark = [pytest.mark.release, pytest.mark.timeout(3600)]


def keep(figures: dict[str, dict[str, float]]) -> None:
    """Adds the percentages of files to the report, and compares them."""
    path = ROOT / "reports" / "parser_coverage.json"
    path.parent.mkdir(exist_ok=True)
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(report | figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for name, of in figures.items():
        assert of["lines"] >= MIN_LINES, name
        assert of["branches"] >= MIN_BRANCHES, name


def core_for_python(clang: str) -> Path:
    """A folder for PYTHONPATH with an edge_s2s whose core counts what it runs."""
    folder = FOLDER / "site"
    shutil.rmtree(folder, ignore_errors=True)
    # Release would be stripped; with other assertions than the checks, its functions would count apart.
    definitions = {
        "CMAKE_C_COMPILER": clang,
        "CMAKE_C_FLAGS": C_FLAGS,
        "CMAKE_C_FLAGS_RELWITHDEBINFO": OPTIMIZE,
    }
    options = ["cmake.build-type=RelWithDebInfo", f"build-dir={FOLDER / 'python'}"]
    options += [f"cmake.define.{name}={value}" for name, value in definitions.items()]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    run(*pip, *(argument for option in options for argument in ("-C", option)), "--target", folder, ROOT)
    return folder


def test_the_readers_in_c():
    """By their checks; those of the tokenizer's file by the tests that compare it, which are in Python."""
    cmake, ninja, clang = find_tool("cmake"), find_tool("ninja"), find_tool("clang")
    cov, profdata = find_tool("llvm-cov"), find_tool("llvm-profdata")
    options = [f"-DCMAKE_C_COMPILER={clang}", f"-DCMAKE_MAKE_PROGRAM={ninja}", "-DES2S_BUILD_TESTS=ON"]
    options += [f"-DCMAKE_C_FLAGS={C_FLAGS}", f"-DCMAKE_C_FLAGS_RELEASE={OPTIMIZE}"]
    run(cmake, "-S", ROOT, "-B", FOLDER, "-G", "Ninja", *options)
    run(cmake, "--build", FOLDER, "--target", *C_CHECKS)
    programs = [FOLDER / "tests" / "csrc" / check for check in C_CHECKS]
    for program in programs:
        run(program, LLVM_PROFILE_FILE=f"{program}.profraw")
    site = core_for_python(clang)
    [module] = (site / "edge_s2s").glob("_core*.so")
    variables = {"LLVM_PROFILE_FILE": f"{module}.profraw", "PYTHONPATH": str(site)}
    run(*PYTEST, ROOT / "tests" / "test_native_tokenizer.py", **variables)
    objects = [*programs, module]
    merged = FOLDER / "merged.profdata"
    run(profdata, "merge", "-o", merged, *(f"{path}.profraw" for path in objects))
    arguments = [objects[0], *(argument for path in objects[1:] for argument in ("-object", path))]
    sources = [ROOT / "csrc" / name for name in C_FILES]
    report = json.loads(run(cov, "export", "-summary-only", f"-instr-profile={merged}", *arguments, *sources))
    files = {Path(file["filename"]).name: file["summary"] for file in report["data"][0]["files"]}
    keep(
        {
            f"csrc/{name}": {kind: round(files[name][kind]["percent"], 1) for kind in ("lines", "branches")}
            for name in C_FILES
        }
    )


def percent(parts: list[dict[str, int]]) -> dict[str, float]:
    """Of lines and branches, over the summaries that coverage makes of files or functions."""

    def of(covered: str, number: str) -> float:
        n = sum(part[number] for part in parts)
        return round(100 * sum(part[covered] for part in parts) / n, 1)

    return {
        "lines": of("covered_lines", "num_statements"),
        "branches": of("covered_branches", "num_branches"),
    }


def test_the_readers_in_python(tmp_path: Path):
    pytest.importorskip("coverage", reason="needs coverage: pip install 'edge_s2s[fuzz]'")
    data, report = f"--data-file={tmp_path / 'data'}", tmp_path / "report.json"
    files = ",".join(f"*/edge_s2s/{name}.py" for name in READERS)
    measure = [sys.executable, "-m", "coverage"]
    tests = [*PYTEST[1:], *(ROOT / test for test in TESTS)]
    run(*measure, "run", "--branch", data, f"--include={files}", *tests)
    run(*measure, "json", data, "-o", report)
    measured = {Path(name).stem: file for name, file in json.loads(report.read_text())["files"].items()}
    assert measured.keys() == {*READERS}
    loading = [measured["tokenizer"]["functions"][name]["summary"] for name in TOKENIZER_LOADER]
    del measured["tokenizer"]
    figures = {f"edge_s2s/{name}.py": percent([file["summary"]]) for name, file in measured.items()}
    keep({**figures, "edge_s2s/tokenizer.py, loading": percent(loading)})
