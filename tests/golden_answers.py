"""What the golden cases of the default bundle become on the CPU that runs this: a program, not a test.

    python golden_answers.py OUT.npz [N]

takes the N shortest cases, or all, writes the encoder's keys and values of case i as array `i`, and prints
the rest as one line of JSON.
"""

import json
import platform
import sys

import numpy as np
import onnxruntime

import edge_s2s
from edge_s2s.bundle import open_bundle


def main(out: str, n: int | None = None) -> None:
    path = edge_s2s.default_bundle_path()
    cross_kv, found, isas = [], [], set()
    with open_bundle(path) as bundle, edge_s2s.load(path, num_threads=1) as model:
        cases = sorted(bundle.golden(), key=lambda case: len(case.input_ids))[:n]
        for case in cases:
            embeds = model._parts.decoder.embed(case.input_ids)
            cross_kv.append(model._parts.encoder.run(embeds).cross_kv)
            options = edge_s2s.GenerationOptions(num_beams=1, max_new_tokens=len(case.token_ids))
            [[generation]] = model.generate([case.text], options)
            found.append(generation.token_ids)
            isas.add(generation.stats.isa)
    np.savez(out, *cross_kv)
    answer = {
        "machine": platform.machine(),
        "onnxruntime": onnxruntime.__version__,
        "isas": sorted(isas),
        "found": found,
        "expected": [case.token_ids for case in cases],
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
