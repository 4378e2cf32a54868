"""Builds a wheel for 64-bit ARM Linux on another machine, with the toolchain file beside this one.

    pip install 'scikit-build-core>=0.11,<2' 'cffi>=1.17,<3' cmake ninja
    python csrc/toolchains/aarch64_wheel.py FOLDER

The wheel's tag names the oldest glibc that has all symbols the module asks for, as auditwheel would find.
"""

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from scikit_build_core.build import build_wheel

SOURCE = Path(__file__).parents[2]
SETTINGS = {
    "build-dir": "build/wheel-aarch64",
    "cmake.args": f"--toolchain={SOURCE}/csrc/toolchains/aarch64-linux-gnu.cmake",
}
LIBRARIES = {"libc.so.6", "libm.so.6", "ld-linux-aarch64.so.1"}  # that every manylinux system has


def main(out: Path) -> None:
    """Writes the wheel into the folder `out` and prints its path."""
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(SOURCE)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder, _build("linux-aarch64", Path(folder)))
        major, minor = _oldest_glibc(draft)
    print(out / _build(f"manylinux_{major}_{minor}_aarch64", out))


def _build(platform: str, folder: Path) -> str:
    """File name of a wheel for this platform."""
    os.environ["_PYTHON_HOST_PLATFORM"] = platform
    return build_wheel(str(folder), SETTINGS)


def _oldest_glibc(wheel: Path) -> tuple[int, int]:
    """Version of glibc that a wheel's module needs, which may need nothing else."""
    with zipfile.ZipFile(wheel) as file:
        module = file.extract("edge_s2s/_core.abi3.so", wheel.parent)
    dump = subprocess.run(
        ["aarch64-linux-gnu-objdump", "-p", "-T", module], capture_output=True, text=True, check=True
    ).stdout
    if other := set(re.findall(r"NEEDED +(\S+)", dump)) - LIBRARIES:
        raise SystemExit(
            f"expected a module that needs {', '.join(sorted(LIBRARIES))}; found {', '.join(other)}"
        )
    return max((int(major), int(minor)) for major, minor in re.findall(r"GLIBC_(\d+)\.(\d+)", dump))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
