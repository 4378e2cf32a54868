"""The file of results: one for each machine and commit, written after every unit, so that runs add up.

machine     what figures depend on besides the code
runs        command, commit, date and load of each run that added to it
settings    "MODEL/tTHREADS" -> peer -> the fastest setting, and how fast each one was
failed      "UNIT", "UNIT/PEER", "MODEL/PEER" or "settings/MODEL/tTHREADS/PEER/SETTING" -> what went wrong
units       name (see `plan`) -> what `units` measured
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import ROOT
from edge_s2s.decoder import supported_isas

SCHEMA = "edge-s2s-bench/2"
FOLDER = ROOT / "bench" / "results"
Results = dict[str, Any]


class ResultsError(ValueError):
    """A file that cannot be read or added to."""


def machine(isa: str | None = None) -> dict[str, Any]:
    """What the figures depend on besides the code; isa: the kernel set that all are held to."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    board = Path("/proc/device-tree/model")
    if board.exists():
        model = board.read_text().strip("\0\n")
    return {
        # makers sell several generations by one name
        "cpu": f"{model}, {supported_isas()[-1]}{f' held to {isa}' if isa else ''}",
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "load_before": os.getloadavg()[0],
    }


def commit() -> str:
    """Of the repository that is measured."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def file_name(isa: str | None = None) -> str:
    """CPU-COMMIT.json."""
    here = machine(isa)
    return f"{file_stem(here['cpu'])}-{here['commit']}.json"


def file_stem(cpu: str) -> str:
    """A processor's name as part of a file's."""
    return re.sub("[^a-z0-9]+", "-", cpu.lower())


def open_results(path: Path, *, quick: bool, isa: str | None = None) -> Results:
    """The results so far, or none; raises ResultsError if they are of another machine or kind."""
    here = machine(isa)
    if not path.exists():
        empty: Results = {name: {} for name in ("settings", "failed", "units")}
        return {"schema": SCHEMA, "quick": quick, "machine": here, "runs": [], **empty}
    results = read(path)
    for name, found, expected in (
        ("machine", results["machine"]["cpu"], here["cpu"]),
        ("--quick", results["quick"], quick),
    ):
        if found != expected:
            raise ResultsError(f"{path}: {name} {found}, but this run's is {expected}; name another --out")
    return results


def read(path: Path) -> Results:
    """The results in a file; raises ResultsError for another schema."""
    results: Results = json.loads(path.read_text(encoding="utf-8"))
    if results.get("schema") != SCHEMA:
        raise ResultsError(f"{path}: expected schema {SCHEMA}, found {results.get('schema')}; measure again")
    return results


def begin_run(results: Results) -> None:
    """Notes down who adds to the results."""
    here = machine()
    command = "python -m bench " + " ".join(sys.argv[1:])
    results["runs"].append({"command": command, **{k: here[k] for k in ("commit", "date", "load_before")}})


def save(path: Path, results: Results) -> None:
    """Writes the file, or leaves the old one as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(rounded(results), indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def rounded(value: Any) -> Any:
    """The same with floats of five digits."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value
