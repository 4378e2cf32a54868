"""What a KV cache in float16 brings: two bundles of one checkpoint, which take turns.

edge-s2s-export convert CHECKPOINT --out wide.es2s
edge-s2s-export convert CHECKPOINT --out narrow.es2s --kv-cache float16
python -m bench.kv_cache wide.es2s narrow.es2s [ISA ...]

Sources are random keys and values: what is timed does not depend on them.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_s2s.bundle import open_bundle
from edge_s2s.decoder import DecoderModel, supported_isas
from edge_s2s.weights import FILE as WEIGHTS

LENGTHS = (64, 512, 1024)
ROWS = (1, 8)
N_STEPS = 64
ROUNDS = 15
MB = 1e6


def main(arguments: Sequence[str]) -> None:
    """Prints a table: memory of a session in MB, medians of a step in ms, their ratio; one thread."""
    bundles = [open_bundle(Path(argument)) for argument in arguments[:2]]
    found = [bundle.manifest.quantization.kv_cache for bundle in bundles]
    if found != ["float32", "float16"]:
        raise SystemExit(f"expected a bundle with float32 and one with float16, found {' and '.join(found)}")
    print("| kernels | sources | tokens of each | MB | MB, float16 | ms a step | ms, float16 | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for isa in arguments[2:] or supported_isas()[-1:]:
        models = [
            DecoderModel(bundle.read(WEIGHTS), isa=isa, verify=False, is_mapped=True) for bundle in bundles
        ]
        limit = models[0].dims.max_source_len
        for n_rows in ROWS:
            for source_len in sorted({min(n, limit) for n in LENGTHS}):
                sizes, times = _measure(models, n_rows, source_len)
                cells = [*(f"{size / MB:.1f}" for size in sizes), *(f"{ms:.3g}" for ms in times)]
                print(
                    f"| {isa} | {n_rows} | {source_len} | {' | '.join(cells)} | {times[1] / times[0]:.2f} |"
                )


def _measure(models: Sequence[DecoderModel], n_rows: int, source_len: int) -> tuple[list[int], list[float]]:
    """Of each model: bytes of a session, median ms of its steps."""
    dims = models[0].dims
    n_steps = min(N_STEPS, dims.max_target_len)
    shape = (dims.n_layers, 2, dims.n_heads, source_len, dims.d_head)
    source = np.random.default_rng(0).standard_normal(shape, np.float32)
    sizes = [0] * len(models)
    times: list[list[float]] = [[] for _ in models]
    for _ in range(ROUNDS):
        for i, model in enumerate(models):
            with model.session(n_rows, 1, source_len, n_steps) as session:
                sizes[i] = session.size_bytes
                for row in range(n_rows):
                    session.set_source(row, source)
                tokens = [dims.decoder_start_token_id] * n_rows
                for step in range(n_steps):
                    start = time.perf_counter()
                    session.step(tokens)
                    times[i].append(1000 * (time.perf_counter() - start))
                    tokens = [(step + row) % dims.vocab_size for row in range(n_rows)]
    return sizes, [statistics.median(measured) for measured in times]


if __name__ == "__main__":
    main(sys.argv[1:])
