"""How long a user waits from nothing: whole processes of the default bundle, each started anew."""

import subprocess
import sys
from pathlib import Path

from bench.processes import PeerError
from bench.rounds import Sample

FIRST_TOKEN = """
import time, pathlib, sys
start = time.perf_counter()
import edge_s2s
imported = time.perf_counter()
model = edge_s2s.load(num_threads=int(sys.argv[2]))
next(model.stream(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")))
print(imported - start, time.perf_counter() - imported)
"""
# Linux hands the peak memory of a process on to those that it starts: a small one stands between us and them.
_WATCH = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
wall_s = time.perf_counter() - start
unit = 2**20 if sys.platform == "darwin" else 2**10
print(wall_s, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit)
"""


def watch(command: list[str], cwd: Path) -> tuple[float, float]:
    """Wall seconds and peak memory in MB of one process."""
    return _two_numbers([sys.executable, "-I", "-S", "-c", _WATCH, *command], cwd)


def sample(document: Path, threads: int) -> Sample:
    """One round: the command line over a document, then a program that asks for the first piece of text.

    Processes run in the document's folder: in the repository, edge_s2s/ would hide the installed package.
    """
    cwd = document.resolve().parent
    program = str(Path(sys.executable).parent / "edge-s2s")
    wall_s, peak_mb = watch([program, "summarize", document.name, "--num-threads", str(threads)], cwd)
    import_s, first_token_s = _two_numbers(
        [sys.executable, "-c", FIRST_TOKEN, document.name, str(threads)], cwd
    )
    return {
        "summarize_process_s": wall_s,
        "summarize_peak_rss_mb": peak_mb,
        "import_s": import_s,
        "load_and_first_token_s": first_token_s,
    }


def _two_numbers(command: list[str], cwd: Path) -> tuple[float, float]:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise PeerError(f"a process ended with {done.returncode}: {last[0]}")
    first, second = map(float, done.stdout.split())
    return first, second
