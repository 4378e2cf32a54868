"""Nearly every line and branch of the readers is run by their tests and the inputs that are kept."""

import json
import sys
from pathlib import Path

import pytest

from c_builds import ROOT, find_tool, run

FOLDER = ROOT / "build" / "coverage"
MIN_LINES, MIN_BRANCHES = 95.0, 90.0  # percent, of each file
C_FILES = ("weights_file.c", "sha256.c", "model.c")
C_CHECKS = ("check_weights_file", "check_session", "check_encoder", "check_out_of_memory")
READERS = (
    "stored_zip",
    "strict_json",
    "manifest",
    "weights",
    "onnx_graph",
    "charsmap",
    "bundle",
    "tokenizer",
)
# The part of tokenizer.py that reads a file; the rest makes ids and texts.
TOKENIZER_LOADER = ("Tokenizer.__init__", "_check_components", "_parts", "_check_part", "_growth")
TESTS = [f"tests/test_{name}.py" for name in READERS] + [
    "tests/attacks/test_attacks.py",
    "tests/fuzz/test_readers.py",
]

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


def test_the_reader_in_c():
    cmake, ninja, clang = find_tool("cmake"), find_tool("ninja"), find_tool("clang")
    cov, profdata = find_tool("llvm-cov"), find_tool("llvm-profdata")
    options = [f"-DCMAKE_C_COMPILER={clang}", f"-DCMAKE_MAKE_PROGRAM={ninja}", "-DES2S_BUILD_TESTS=ON"]
    options += ["-DCMAKE_C_FLAGS=-fprofile-instr-generate -fcoverage-mapping", "-DCMAKE_C_FLAGS_RELEASE=-O1"]
    run(cmake, "-S", ROOT, "-B", FOLDER, "-G", "Ninja", *options)
    run(cmake, "--build", FOLDER, "--target", *C_CHECKS)
    programs = [FOLDER / "tests" / "csrc" / check for check in C_CHECKS]
    for program in programs:
        run(program, LLVM_PROFILE_FILE=f"{program}.profraw")
    merged = FOLDER / "merged.profdata"
    run(profdata, "merge", "-o", merged, *(f"{program}.profraw" for program in programs))
    objects = [programs[0], *(argument for program in programs[1:] for argument in ("-object", program))]
    sources = [ROOT / "csrc" / name for name in C_FILES]
    report = json.loads(run(cov, "export", "-summary-only", f"-instr-profile={merged}", *objects, *sources))
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
    pytest_ = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    run(*measure, "run", "--branch", data, f"--include={files}", *pytest_, *(ROOT / test for test in TESTS))
    run(*measure, "json", data, "-o", report)
    measured = {Path(name).stem: file for name, file in json.loads(report.read_text())["files"].items()}
    assert measured.keys() == {*READERS}
    loading = [measured["tokenizer"]["functions"][name]["summary"] for name in TOKENIZER_LOADER]
    del measured["tokenizer"]
    figures = {f"edge_s2s/{name}.py": percent([file["summary"]]) for name, file in measured.items()}
    keep({**figures, "edge_s2s/tokenizer.py, loading": percent(loading)})
