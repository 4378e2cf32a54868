"""Time of a bundle's encoder: ONNX Runtime against the C core.

edge-s2s-export convert CHECKPOINT --out native.es2s --encoder native
python -m bench.encoders ONNX.es2s native.es2s
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edge_s2s.bundle import open_bundle
from edge_s2s.decoder import DecoderModel
from edge_s2s.encoder import Encoder
from edge_s2s.weights import FILE as WEIGHTS

LENGTHS = (64, 128, 256, 512)
THREADS = (1, 2)
ROUNDS = 15


def main(arguments: Sequence[str]) -> None:
    """Prints a table of medians in ms and their ratio; both are asked in turn.

    Time on the clock, and of all threads on the CPU, which a busy machine changes less.
    """
    onnx, native = (open_bundle(Path(argument)) for argument in arguments)
    weights, encoder_file = native.read(WEIGHTS), native.manifest.encoder("native").file
    print("| threads | tokens | ONNX Runtime | C core | ratio | CPU | CPU | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for threads in THREADS:
        encoder = Encoder(onnx, num_threads=threads)
        model = DecoderModel(weights, encoder=native.read(encoder_file), num_threads=threads)
        for n in LENGTHS:
            ids = np.random.default_rng(n).integers(0, model.dims.source_vocab_size, n).astype(np.int32)
            with model.session(1, 1, n, 1) as session:
                times = _medians_ms(
                    lambda ids=ids, encoder=encoder, model=model: encoder.run(model.embed(ids)),
                    lambda ids=ids, session=session: session.encode(0, ids),
                )
            cells = [f"{theirs:.1f} | {ours:.1f} | {ours / theirs:.2f}" for theirs, ours in times]
            print(f"| {threads} | {n} | {' | '.join(cells)} |")


def _medians_ms(*calls: Callable[[], object]) -> list[list[float]]:
    """[clock, CPU] of [each call]"""
    clocks = (time.perf_counter, time.process_time)
    times: list[list[list[float]]] = [[[] for _ in calls] for _ in clocks]
    for _ in range(ROUNDS):
        for i, call in enumerate(calls):
            start = [clock() for clock in clocks]
            call()
            for measured, clock, began in zip(times, clocks, start, strict=True):
                measured[i].append(1000 * (clock() - began))
    return [[statistics.median(measured) for measured in of_clock] for of_clock in times]


if __name__ == "__main__":
    main(sys.argv[1:])
