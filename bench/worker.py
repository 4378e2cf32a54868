"""One peer in a process of its own.

    python -m bench.worker --prepare PEER CHECKPOINT FOLDER
    python -m bench.worker PEER FOLDER THREADS

The second answers JSON lines with JSON lines: first {"load_s", "version"}, then for each {"input_ids",
"n_tokens"} the wall and CPU seconds and the number of tokens, at the end of input {"peak_rss_mb"}.
"""

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path


def serve(name: str, folder: Path, threads: int) -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    peer = importlib.import_module(f"bench.peers.{name}")
    start = time.perf_counter()
    generate = peer.load(folder, threads)
    print(
        json.dumps({"load_s": time.perf_counter() - start, "version": peer.VERSION}),
        file=answers,
    )
    for line in sys.stdin:
        request = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = generate(request["input_ids"], request["n_tokens"])
        answer = {
            "wall_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
            "tokens": len(tokens),
        }
        print(json.dumps(answer), file=answers)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_rss_mb": peak}), file=answers)


if __name__ == "__main__":
    if sys.argv[1] == "--prepare":
        importlib.import_module(f"bench.peers.{sys.argv[2]}").prepare(Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
