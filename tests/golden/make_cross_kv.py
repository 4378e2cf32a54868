"""Write default_cross_kv.npz: what the default bundle's encoder gives for short dialogues, and what follows.

    python tests/golden/make_cross_kv.py

Encoders may differ in the last bit between CPUs, so a test of "the same tokens on every CPU" starts behind
them. Keys and values are kept as int8 codes and one float32 scale a source, an exact product everywhere.

    codes    int8 [sum over sources of n_layers * 2 * n_heads * source_len * d_head]
    scales   float32 [n_sources]
    lengths  int32 [n_sources], source_len
    tokens   int32 [n_sources, MAX_NEW_TOKENS], greedy with the bundle's defaults, filled up with -1
    margins  float32 [n_sources], smallest difference of the two best logits over the steps
"""

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

import edge_s2s
from edge_s2s.bundle import open_bundle
from edge_s2s.decoder import DecoderModel
from edge_s2s.encoder import Encoder
from edge_s2s.manifest import GenerationDefaults

PATH = Path(__file__).with_name("default_cross_kv.npz")
N_SOURCES, MAX_NEW_TOKENS = 240, 48
NAMES = ("Anna", "Tom", "Mr. Keller", "Laura", "my sister", "the manager", "Jack", "the cat")
OPENINGS = ("Where is {}?", "Did {} call?", "{} lost a key.", "I met {}.", "Ask {}.", "{} is late.")
REPLIES = ("At work.", "Not yet.", "Let's wait.", "Yes.", "No, at 5.", "Why?", "I know.")


def dialogues() -> list[str]:
    """The N_SOURCES shortest of all combinations."""
    every = [f"{o.format(n)}\n{reply}" for o in OPENINGS for n in NAMES for reply in REPLIES]
    return sorted(every, key=len)[:N_SOURCES]


def smallest_margin(decoder: DecoderModel, cross_kv: npt.NDArray[np.float32], tokens: list[int]) -> float:
    """Of the two best logits, over the steps that lead to `tokens`."""
    inputs = [decoder.dims.decoder_start_token_id, *tokens[:-1]]
    with decoder.session(1, 1, cross_kv.shape[3], len(inputs)) as session:
        session.set_source(0, cross_kv)
        best_two = [np.partition(session.step([token])[0], -2)[-2:] for token in inputs]
    return float(min(second_and_first[1] - second_and_first[0] for second_and_first in best_two))


def generate(
    decoder: DecoderModel, cross_kv: npt.NDArray[np.float32], params: GenerationDefaults
) -> list[int]:
    """The greedy answer."""
    with decoder.session(1, 1, cross_kv.shape[3], params.max_new_tokens) as session:
        session.set_source(0, cross_kv)
        return list(session.generate(params)[0][0].token_ids)


def main() -> None:
    """Write the file and say what it holds."""
    path = edge_s2s.default_bundle_path()
    codes, scales, lengths, margins = [], [], [], []
    tokens = np.full((N_SOURCES, MAX_NEW_TOKENS), -1, np.int32)
    with open_bundle(path) as bundle, edge_s2s.load(path, num_threads=1) as model:
        decoder = DecoderModel(bundle.read("decoder.weights"), isa="scalar")
        encoder = Encoder(bundle)
        params = dataclasses.replace(bundle.manifest.generation, max_new_tokens=MAX_NEW_TOKENS)
        for i, text in enumerate(dialogues()):
            exact = encoder.run(decoder.embed(model.encode(text))).cross_kv
            scale = np.float32(np.abs(exact).max() / 127)
            code = np.rint(exact / scale).astype(np.int8)
            cross_kv = code * scale
            answer = generate(decoder, cross_kv, params)
            tokens[i, : len(answer)] = answer
            codes.append(code.ravel())
            scales.append(scale)
            lengths.append(exact.shape[3])
            margins.append(smallest_margin(decoder, cross_kv, answer))
    np.savez_compressed(
        PATH,
        codes=np.concatenate(codes),
        scales=np.array(scales, np.float32),
        lengths=np.array(lengths, np.int32),
        tokens=tokens,
        margins=np.array(margins, np.float32),
    )
    near_ties = sum(margin < 0.05 for margin in margins)
    print(f"{PATH}: {PATH.stat().st_size} bytes, {N_SOURCES} sources, {near_ties} with a margin below 0.05")


if __name__ == "__main__":
    main()
