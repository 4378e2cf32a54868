"""Write default_cross_kv.npz: what the default bundle's encoder gives for short dialogues, and what follows.

    python tests/golden/make_cross_kv.py

Encoders may differ in the last bit between CPUs, so a test of "the same tokens on every CPU" starts behind
them. Keys and values are kept as int8 codes and one float32 scale a source, an exact product everywhere.

    codes    int8 [sum over sources of n_layers * 2 * n_heads * source_len * d_head]
    scales   float32 [n_sources]
    lengths  int32 [n_sources], source_len
    tokens   int32 [n_sources, MAX_NEW_TOKENS], of greedy search with the bundle's defaults, filled up with -1
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
N_SOURCES, N_TIES, MAX_NEW_TOKENS = 200, 70, 40
NAMES = (
    "Anna",
    "Tom",
    "nobody",
    "Li Wei",
    "Mr. Keller",
    "Laura",
    "my sister",
    "the manager",
    "Jack",
    "the cat",
)
OPENINGS = ("Where is {}?", "Did {} call?", "{} lost a key.", "I met {}.", "Ask {}.", "{} is late.")
REPLIES = (
    "At work.",
    "Not yet.",
    "Tomorrow?",
    "Ask him.",
    "Let's wait.",
    "Yes.",
    "No, at 5.",
    "Why?",
    "I know. Did you see the bus?",
)


@dataclasses.dataclass(frozen=True)
class Source:
    """What is stored of one."""

    code: npt.NDArray[np.int8]  # [n_layers, 2, n_heads, source_len, d_head]
    scale: np.float32
    tokens: list[int]
    margin: float


def dialogues() -> list[str]:
    """All combinations."""
    return [f"{o.format(n)}\n{reply}" for o in OPENINGS for n in NAMES for reply in REPLIES]


def chosen(sources: list[Source]) -> list[Source]:
    """The closest ties, and the others evenly by length."""
    by_margin = sorted(sources, key=lambda source: source.margin)
    others = sorted(by_margin[N_TIES:], key=lambda source: source.code.shape[3])
    places = np.linspace(0, len(others) - 1, N_SOURCES - N_TIES).round().astype(int)
    return [*by_margin[:N_TIES], *(others[place] for place in places)]


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
    found = []
    with open_bundle(path) as bundle, edge_s2s.load(path, num_threads=1) as model:
        decoder = DecoderModel(bundle.read("decoder.weights"), isa="scalar")
        encoder = Encoder(bundle)
        params = dataclasses.replace(bundle.manifest.generation, num_beams=1, max_new_tokens=MAX_NEW_TOKENS)
        for text in dialogues():
            exact = encoder.run(decoder.embed(model.encode(text))).cross_kv
            scale = np.float32(np.abs(exact).max() / 127)
            code = np.rint(exact / scale).astype(np.int8)
            answer = generate(decoder, code * scale, params)
            found.append(Source(code, scale, answer, smallest_margin(decoder, code * scale, answer)))
    sources = chosen(found)
    tokens = np.full((N_SOURCES, MAX_NEW_TOKENS), -1, np.int32)
    for row, source in zip(tokens, sources, strict=True):
        row[: len(source.tokens)] = source.tokens
    np.savez_compressed(
        PATH,
        codes=np.concatenate([source.code.ravel() for source in sources]),
        scales=np.array([source.scale for source in sources], np.float32),
        lengths=np.array([source.code.shape[3] for source in sources], np.int32),
        tokens=tokens,
        margins=np.array([source.margin for source in sources], np.float32),
    )
    near_ties = sum(source.margin < 0.05 for source in sources)
    print(f"{PATH}: {PATH.stat().st_size} bytes, {N_SOURCES} sources, {near_ties} with a margin below 0.05")


if __name__ == "__main__":
    main()
