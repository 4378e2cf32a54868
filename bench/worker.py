"""One peer in a process of its own; `processes.py` is the other side.

    python -m bench.worker --prepare PEER CHECKPOINT FOLDER
    python -m bench.worker PEER FOLDER THREADS [NAME=VALUE ...]

The second answers JSON lines with JSON lines. It begins with seconds and memory of import and load; a request
{"call", ...arguments} is answered by the wall and CPU seconds and the peak memory of the process, and by the
`result`. Calls: `generate`, `encode`, and `steps`, which is ours alone.
"""

import importlib
import json
import os
import re
import resource
import sys
import time
from pathlib import Path

from bench.peers import Setting


def serve(name: str, folder: Path, threads: int, setting: Setting) -> None:
    """Answers requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    start = time.perf_counter()
    peer = importlib.import_module(f"bench.peers.{name}")
    imported, import_mb = time.perf_counter(), memory_mb("VmRSS")
    loaded = peer.load(folder, threads, **setting)
    hello = {"import_s": imported - start, "load_s": time.perf_counter() - imported, "import_mb": import_mb}
    print(json.dumps(hello), file=answers)
    calls = {"generate": loaded.generate, "encode": loaded.encode}
    if hasattr(peer, "steps"):
        calls["steps"] = lambda **arguments: peer.steps(folder, threads, **arguments)
    for line in sys.stdin:
        request = json.loads(line)
        call = calls[request.pop("call")]
        wall, cpu = time.perf_counter(), time.process_time()
        result = call(**request)
        answer = {
            "wall_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
            "peak_mb": memory_mb("VmHWM"),
            "result": result,
        }
        print(json.dumps(answer), file=answers)


def memory_mb(name: str) -> float:
    """Of this process: VmRSS, what it has in memory, or VmHWM, the most that it had.

    Linux hands `ru_maxrss` on from the process that started this one, hence only where there is no better.
    """
    status = Path("/proc/self/status")
    if status.exists():
        [kilobytes] = re.findall(rf"^{name}:\s+(\d+) kB$", status.read_text(), flags=re.MULTILINE)
        return int(kilobytes) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


if __name__ == "__main__":
    if sys.argv[1] == "--prepare":
        importlib.import_module(f"bench.peers.{sys.argv[2]}").prepare(Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        chosen = dict(argument.split("=", 1) for argument in sys.argv[4:])
        serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), chosen)
