"""Time and memory of the whole C process: `examples/c/summarize.c` from its start to the end of a summary.

edge-s2s-export convert CHECKPOINT --out native.es2s --encoder native
python -m bench.program native.es2s [DOCUMENT]

The document is `examples/dialogue.txt` unless another one is named. Each process is new; `cold` ones find
nothing of the bundle in memory, which the system is asked to forget before.
"""

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import ROOT, first_token

SOURCE = ROOT / "examples" / "c" / "summarize.c"
DOCUMENT = ROOT / "examples" / "dialogue.txt"
THREADS = (1, 2)
ROUNDS = 25
MB = 1e6
# Starts its arguments from a small process: Linux hands on through exec the peak of the one that forked.
STARTER = """
import os, sys
os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
print(os.wait4(-1, 0)[2].ru_maxrss)
"""


def peak_bytes(command: Sequence[str | Path], document: bytes) -> int:
    """Most memory that a program held at a time, pages of its mapped files among it (Linux)."""
    starter = [sys.executable, "-I", "-S", "-c", STARTER, *map(str, command)]
    done = subprocess.run(starter, input=document, capture_output=True, check=True)
    return int(re.findall(rb"\d+", done.stdout)[-1]) * 1024


def forget(path: Path) -> None:
    """Takes a file's pages out of the system's memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main(arguments: Sequence[str]) -> None:
    """Prints a table of medians and the largest, in ms and in MB above the bundle's size."""
    bundle = Path(arguments[0])
    document = Path(arguments[1] if len(arguments) > 1 else DOCUMENT).read_bytes()
    program = first_token.build(ROOT / "build" / "bench" / "first_token", SOURCE)
    print(f"{len(document.split())} words, bundle of {bundle.stat().st_size / MB:.1f} MB")
    print("| threads | bundle in memory | ms, median | ms, most | peak MB | MB above the bundle |")
    print("|---|---|---|---|---|---|")
    for threads in THREADS:
        command = [program, bundle, str(threads)]
        peak = max(peak_bytes(command, document) for _ in range(3))
        for cold in (False, True):
            times = []
            for _ in range(ROUNDS):
                if cold:
                    forget(bundle)
                start = time.perf_counter()
                subprocess.run(command, input=document, capture_output=True, check=True)
                times.append(1000 * (time.perf_counter() - start))
            memory = f"{peak / MB:.1f} | {(peak - bundle.stat().st_size) / MB:.1f}"
            cells = f"{statistics.median(times):.1f} | {max(times):.1f} | {memory}"
            print(f"| {threads} | {'no' if cold else 'yes'} | {cells} |")


if __name__ == "__main__":
    main(sys.argv[1:])
