"""The C core's own checks (tests/csrc/check_*.c), built as users build it and with sanitizers."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHECKS = sorted(path.stem for path in (ROOT / "tests" / "csrc").glob("check_*.c"))
# pip installs cmake and ninja beside the interpreter, which need not be in PATH.
SEARCH_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

# CMake options, and the checks to build and run. clang: floats have the same bits from another compiler.
CONFIGURATIONS = {
    "release": ([], CHECKS),
    "address,undefined": (["-DES2S_SANITIZE=address,undefined"], CHECKS),
    "thread": (["-DES2S_SANITIZE=thread"], ["check_threads"]),
    "clang": (["-DCMAKE_C_COMPILER=clang"], ["check_kernels"]),
}


def find_tool(*names: str) -> str:
    for name in names:
        if found := shutil.which(name, path=SEARCH_PATH):
            return found
    pytest.skip(f"needs {' or '.join(names)}")


def run(*command: str | Path) -> str:
    environment = {**os.environ, "PATH": SEARCH_PATH}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}"
    return result.stdout


def build(name: str) -> Path:
    """Folder of the built checks; it stays in build/, so that a second run only compiles what changed."""
    cmake, ninja = find_tool("cmake"), find_tool("ninja")
    find_tool("clang" if name == "clang" else "cc")
    folder = ROOT / "build" / f"tests-{name.replace(',', '-')}"
    options, checks = CONFIGURATIONS[name]
    options = ["-DES2S_BUILD_TESTS=ON", f"-DCMAKE_MAKE_PROGRAM={ninja}", *options]
    run(cmake, "-S", ROOT, "-B", folder, "-G", "Ninja", *options)
    run(cmake, "--build", folder, "--target", *checks)
    return folder


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_c_check_passes_in_a_build_with(name: str):
    checks = CONFIGURATIONS[name][1]
    selection = ["-R", f"^({'|'.join(checks)})$", "--parallel", "2"]
    report = run(find_tool("ctest"), "--test-dir", build(name), "--output-on-failure", *selection)
    passed = re.findall(r"(check_\w+) \.+ +Passed", report)
    assert sorted(passed) == checks, report


def test_a_check_that_selects_nothing_fails():
    result = subprocess.run([build("release") / "tests" / "csrc" / "check_kernels", "--test=no_such_test"])
    assert result.returncode == 1


@pytest.mark.parametrize("language", ["c", "c++"])
def test_the_public_header_compiles_alone_as(language: str):
    compiler = find_tool("cc") if language == "c" else find_tool("c++", "g++", "clang++")
    flags = ["-std=c11" if language == "c" else "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    source = ROOT / "tests" / "csrc" / "header_test.c"
    run(compiler, "-x", language, *flags, "-I", ROOT / "csrc" / "include", "-fsyntax-only", source)


APP = """
cmake_minimum_required(VERSION 3.20)
project(app C)
add_subdirectory({root} core)
add_executable(app {root}/examples/decode.c)
target_link_libraries(app PRIVATE {library})
"""


def configure_app(folder: Path, library: str, *options: str) -> list[str | Path]:
    """Writes an app that embeds the core; returns the command that configures it in folder/build."""
    (folder / "CMakeLists.txt").write_text(APP.format(root=ROOT, library=library))
    ninja = f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}"
    return [find_tool("cmake"), "-S", folder, "-B", folder / "build", "-G", "Ninja", ninja, *options]


@pytest.mark.parametrize("build_type", ["Debug", "Release"])
@pytest.mark.parametrize("library", ["edge_s2s_static", "edge_s2s_shared"])
def test_an_app_embeds_the_core_with_add_subdirectory(tmp_path: Path, library: str, build_type: str):
    options = [f"-DCMAKE_BUILD_TYPE={build_type}", "-DES2S_BUILD_SHARED=ON"]
    run(*configure_app(tmp_path, library, *options))
    run(find_tool("cmake"), "--build", tmp_path / "build", "--target", "app")
    app = subprocess.run([tmp_path / "build" / "app"], capture_output=True, text=True)
    assert (app.returncode, app.stderr.split(":")[0]) == (2, "usage")


def test_a_build_whose_floats_would_differ_is_refused(tmp_path: Path):
    run(*configure_app(tmp_path, "edge_s2s_static", "-DCMAKE_C_FLAGS=-ffast-math"))
    with pytest.raises(AssertionError, match="no -ffast-math"):
        run(find_tool("cmake"), "--build", tmp_path / "build", "--target", "app")
