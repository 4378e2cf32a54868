"""Builds of the C core that several tests share, for this machine and for emulated ones."""

import functools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHECKS = sorted(path.stem for path in (ROOT / "tests" / "csrc").glob("check_*.c"))
# pip installs cmake and ninja beside the interpreter, which need not be in PATH.
SEARCH_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

AARCH64 = [f"--toolchain={ROOT}/csrc/toolchains/aarch64-linux-gnu.cmake"]
ARM = [f"--toolchain={ROOT}/csrc/toolchains/arm-linux-gnueabihf.cmake"]
# -O2: at -O3 with ASan, gcc 12 for aarch64 stops with an internal error (unrecognizable insn, a store pair).
SANITIZE_ARM = ["-DES2S_SANITIZE=address,undefined", "-DCMAKE_C_FLAGS_RELEASE=-O2"]

# CMake options of each build, and the compiler that it needs.
BUILDS = {
    "release": ([], "cc"),
    "address,undefined": (["-DES2S_SANITIZE=address,undefined"], "cc"),
    "thread": (["-DES2S_SANITIZE=thread"], "cc"),
    "clang": (["-DCMAKE_C_COMPILER=clang"], "clang"),
    "aarch64": (AARCH64, "aarch64-linux-gnu-gcc"),
    "arm": (ARM, "arm-linux-gnueabihf-gcc"),
    "aarch64-address,undefined": ([*AARCH64, *SANITIZE_ARM], "aarch64-linux-gnu-gcc"),
    "arm-address,undefined": ([*ARM, *SANITIZE_ARM], "arm-linux-gnueabihf-gcc"),
}


@dataclass(frozen=True)
class Emulated:
    """A CPU that qemu-user emulates."""

    build: str
    isa: str  # the widest kernel set that it has

    def emulator(self) -> list[str]:
        """The command that goes before a program's."""
        qemu = find_tool(f"qemu-{self.build}-static", f"qemu-{self.build}")
        libraries = {"aarch64": "/usr/aarch64-linux-gnu", "arm": "/usr/arm-linux-gnueabihf"}
        return [qemu, "-L", libraries[self.build]]


EMULATED = {
    "cortex-a53": Emulated("aarch64", "neon"),
    "cortex-a72": Emulated("aarch64", "neon"),
    "cortex-a76": Emulated("aarch64", "neon_dotprod"),
    "max": Emulated("aarch64", "neon_i8mm"),
    "cortex-a7": Emulated("arm", "neon"),
}


def find_tool(*names: str) -> str:
    for name in names:
        if found := shutil.which(name, path=SEARCH_PATH):
            return found
    pytest.skip(f"needs {' or '.join(names)}")


def arm64_python() -> Path:
    """Starts the ARM Python that tests/arm64/make_root.sh has installed; QEMU_CPU chooses its CPU."""
    root = Path(os.environ.get("EDGE_S2S_ARM64_ROOT", ROOT / "build" / "arm64-root"))
    if not (root / "python").exists():
        pytest.skip(f"tests/arm64/make_root.sh has not made {root}")
    return root / "python"


def run(*command: str | Path, **variables: str) -> str:
    """Standard output of a command that must succeed; `variables` are added to its environment."""
    environment = {**os.environ, "PATH": SEARCH_PATH, **variables}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}"
    return result.stdout


def build(name: str, *targets: str) -> Path:
    """Folder of a build; it stays in build/, so that a second run only compiles what changed."""
    options, compiler = BUILDS[name]
    cmake, ninja = find_tool("cmake"), find_tool("ninja")
    find_tool(compiler)
    folder = ROOT / "build" / f"tests-{name.replace(',', '-')}"
    _configure(folder, cmake, ninja, *options)
    run(cmake, "--build", folder, "--target", *targets)
    return folder


@functools.cache
def _configure(folder: Path, cmake: str, ninja: str, *options: str) -> None:
    options = ("-DES2S_BUILD_TESTS=ON", "-DES2S_BUILD_SHARED=ON", f"-DCMAKE_MAKE_PROGRAM={ninja}", *options)
    run(cmake, "-S", ROOT, "-B", folder, "-G", "Ninja", *options)
