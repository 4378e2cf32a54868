"""What the machine can do at most, by `bounds.c`, which is compiled anew for the machine that runs it.

numpy would not do: its sums of many bytes have a call's cost for each block, and threads of it share the
interpreter's lock between them; a bound that a better program passes is none.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal, Self

SOURCE = Path(__file__).with_suffix(".c")
WORKING_SETS_MB = (1, 4, 8, 16, 32, 64, 128, 256)


def compiler() -> str | None:
    """A C compiler, if there is one."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


class Bounds:
    """The running program. Use it as a context manager."""

    def __init__(self) -> None:
        cc = compiler()
        assert cc is not None
        self._folder = tempfile.TemporaryDirectory()
        program = str(Path(self._folder.name) / "bounds")
        flags = ["-std=c11", "-O3", "-march=native", "-pthread"]
        subprocess.run([cc, *flags, str(SOURCE), "-o", program], check=True, stdout=sys.stderr)
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.pid = self._process.pid

    def ask(self, what: Literal["stream", "dot"], size_bytes: int, threads: int) -> float:
        """1e9 bytes read, or products of 8-bit integers, a second."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what} {size_bytes} {threads}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()
