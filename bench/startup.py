"""How long a user waits from nothing: whole processes, each started anew."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

FIRST_TOKEN = """
import time, pathlib, sys
start = time.perf_counter()
import edge_s2s
imported = time.perf_counter()
model = edge_s2s.load(num_threads=int(sys.argv[2]))
next(model.stream(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")))
print(imported - start, time.perf_counter() - imported)
"""


def run_process(command: list[str], cwd: Path) -> tuple[float, float, str]:
    """Wall seconds, peak RSS in MB and standard output of one process."""
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024, output


def measure(document: Path, *, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Figures of `rounds` interleaved rounds: median, minimum and maximum each.

    Processes run in the document's folder: in the repository, edge_s2s/ would hide the installed package.
    """
    cwd = document.resolve().parent
    program = str(Path(sys.executable).parent / "edge-s2s")
    summarize = [program, "summarize", document.name, "--num-threads", str(threads)]
    figures: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        wall, rss, _ = run_process(summarize, cwd)
        _, _, times = run_process([sys.executable, "-c", FIRST_TOKEN, document.name, str(threads)], cwd)
        imported, first_token = map(float, times.split())
        for name, value in {
            "summarize_process_s": wall,
            "summarize_peak_rss_mb": rss,
            "import_s": imported,
            "load_and_first_token_s": first_token,
        }.items():
            figures.setdefault(name, []).append(value)
    # The first round fills the file cache.
    return {
        name: {"median": statistics.median(v[1:]), "min": min(v[1:]), "max": max(v[1:])}
        for name, v in figures.items()
    }
