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
    """Prints a table of medians in ms and their ratio; both are asked in turn."""
    onnx, native = (open_bundle(Path(argument)) for argument in arguments)
    weights, encoder_file = native.read(WEIGHTS), native.manifest.encoder("native").file
    print("| threads | tokens | ONNX Runtime | C core | ratio |\n|---|---|---|---|---|")
    for threads in THREADS:
        encoder = Encoder(onnx, num_threads=threads)
        model = DecoderModel(weights, encoder=native.read(encoder_file), num_threads=threads)
        for n in LENGTHS:
            ids = np.random.default_rng(n).integers(0, model.dims.source_vocab_size, n).astype(np.int32)
            with model.session(1, 1, n, 1) as session:
                theirs, ours = _medians_ms(
                    lambda ids=ids, encoder=encoder, model=model: encoder.run(model.embed(ids)),
                    lambda ids=ids, session=session: session.encode(0, ids),
                )
            print(f"| {threads} | {n} | {theirs:.1f} | {ours:.1f} | {ours / theirs:.2f} |")


def _medians_ms(*calls: Callable[[], object]) -> list[float]:
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, measured in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            measured.append(1000 * (time.perf_counter() - start))
    return [statistics.median(measured) for measured in times]


if __name__ == "__main__":
    main(sys.argv[1:])
