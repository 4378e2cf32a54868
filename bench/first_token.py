"""Our cold start without Python: `first_token.c`, linked with the core of this repository."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench import ROOT
from bench.bounds import compiler
from bench.processes import PeerError
from bench.rounds import Sample

LABEL = "edge_s2s, C program"
SOURCE = Path(__file__).with_suffix(".c")


def build(folder: Path, source: Path = SOURCE) -> Path:
    """The program of a source, in a folder that the next run finds again; PeerError if it cannot be built."""
    beside = Path(sys.executable).with_name("cmake")
    cmake, cc = str(beside) if beside.exists() else shutil.which("cmake"), compiler()
    if cmake is None or cc is None:
        raise PeerError(
            f"expected cmake and a C compiler, found {cmake or 'no cmake'} and {cc or 'no compiler'}"
        )
    program = folder / source.stem
    options = ["-std=c11", "-O2", f"-I{ROOT / 'csrc' / 'include'}"]
    sources = [str(source), str(folder / "libedge_s2s.a")]
    for command in (
        [cmake, "-S", str(ROOT), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release"],
        [cmake, "--build", str(folder), "--parallel", "2", "--target", "edge_s2s_static"],
        [cc, *options, *sources, "-pthread", "-lm", "-o", str(program)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise PeerError((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    return program


def sample(
    program: Path, bundle: Path, threads: int, isa: str | None, source: list[int], expected: int
) -> Sample:
    """One start: seconds until the process with the token has ended, and memory as of the others.

    PeerError if the token is not the `expected` one.
    """
    start = time.perf_counter()
    command = [str(program), str(bundle), str(threads), isa or "-", *map(str, source)]
    done = subprocess.run(command, capture_output=True, text=True)
    first_token_s = time.perf_counter() - start
    if done.returncode:
        raise PeerError(f"{LABEL} ended with {done.returncode}: {done.stderr.strip()}")
    token, before, peak = map(int, done.stdout.split())
    if token != expected:
        raise PeerError(f"{LABEL}: expected token {expected}, as Python has, found {token}")
    return {
        "first_token_s": first_token_s,
        "peak_mb": peak / 1024,
        "peak_over_import_mb": (peak - before) / 1024,
    }
