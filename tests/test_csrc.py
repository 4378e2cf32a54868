"""The C core's own checks (tests/csrc/check_*.c), built as users build it and with sanitizers."""

import platform
import re
import subprocess
from pathlib import Path

import pytest

from c_builds import CHECKS, EMULATED, ROOT, build, find_tool, run

X86_CHECKS = {"check_avx_vnni"}  # of x86 kernels
PORTABLE_CHECKS = [check for check in CHECKS if check not in X86_CHECKS]
HOST_CHECKS = CHECKS if platform.machine() in ("x86_64", "AMD64") else PORTABLE_CHECKS
KERNEL_CHECKS = ["check_encoder", "check_kernels", "check_vector_kernels"]
# The checks of each build. clang: floats have the same bits from another compiler.
SELECTIONS = {
    "release": HOST_CHECKS,
    "address,undefined": HOST_CHECKS,
    "thread": ["check_encoder", "check_threads"],
    "clang": KERNEL_CHECKS,
}


def ctest(build_name: str, checks: list[str], **variables: str) -> None:
    """Builds and runs the checks; each must have passed."""
    selection = ["-R", f"^({'|'.join(checks)})$", "--parallel", "2"]
    folder = build(build_name, *checks)
    report = run(find_tool("ctest"), "--test-dir", folder, "--output-on-failure", *selection, **variables)
    passed = re.findall(r"(check_\w+) \.+ +Passed", report)
    assert sorted(passed) == checks, report


@pytest.mark.parametrize("name", SELECTIONS)
def test_every_c_check_passes_in_a_build_with(name: str):
    ctest(name, SELECTIONS[name])


@pytest.mark.parametrize("cpu", ["cortex-a53", "max", "cortex-a7"])
def test_kernels_give_the_same_bits_on_an_emulated(cpu: str):
    EMULATED[cpu].emulator()  # skips without qemu
    ctest(EMULATED[cpu].build, KERNEL_CHECKS, QEMU_CPU=cpu)


@pytest.mark.release
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("cpu", EMULATED)
@pytest.mark.parametrize("sanitizers", ["", "-address,undefined"])
def test_every_c_check_passes_on_an_emulated(cpu: str, sanitizers: str):
    EMULATED[cpu].emulator()
    # qemu-user cannot trace a process, as the leak checker must.
    ctest(EMULATED[cpu].build + sanitizers, PORTABLE_CHECKS, QEMU_CPU=cpu, ASAN_OPTIONS="detect_leaks=0")


def test_a_check_that_selects_nothing_fails():
    program = build("release", "check_kernels") / "tests" / "csrc" / "check_kernels"
    result = subprocess.run([program, "--test=no_such_test"])
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
add_executable(app {root}/examples/c/decode.c)
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
