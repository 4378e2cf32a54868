"""Which layers int8 costs most: each matrix is rounded to int8 alone, all others stay float32.

    edge-s2s-export sensitivity ./summarizer --prefix "summarize: "

The cost is KL(float32 || rounded) of the next token over what the float32 model writes, in nats a token.
Activations stay float32, so the costs are those of weights, which is what storing one of them otherwise
would save. Encoder and decoder run on the C core, from float32 weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_s2s import encoder_weights
from edge_s2s.decoder import DecoderModel, Floats
from edge_s2s.weights import expected_tensors, write_weights

from . import families, gates
from .candidate import greedy_search
from .convert import load_checkpoint
from .errors import ExportError
from .model_spec import ModelSpec
from .probe_texts import probe_texts
from .quantize import quantize_rows

N_TEXTS = 20
ALL = "all of them"


@dataclass(frozen=True)
class Sensitivity:
    """What int8 costs in one matrix of the encoder or decoder, or in `ALL`."""

    name: str  # such as encoder.layers.0.ffn.up.weight
    n_weights: int
    mean_kl: float  # nats a token
    high_kl: float  # its 99th percentile
    changed: float  # share of the tokens that are no longer the most likely one


def sensitivity(
    source: str | Path,
    *,
    prefix: str = "",
    texts: Sequence[str] | None = None,
    on_progress: Callable[[int, int], None] = lambda _n_done, _n: None,
) -> list[Sensitivity]:
    """The matrices of a Hugging Face folder or hub id, most expensive first, and `ALL` before them.

    `texts`, by default English ones written for this project, get `prefix`; `on_progress` hears how many of
    how many matrices are done. Raises `ExportError` if a bundle cannot hold the model.
    """
    model, tokenizer = load_checkpoint(source)
    chosen = probe_texts(N_TEXTS) if texts is None else [*texts][:N_TEXTS]
    if not chosen:
        raise ExportError("texts: expected at least one, found none")
    spec = families.describe(model, tokenizer)
    limit = int(spec.keys["max_source_len"])
    sources = [[*tokenizer(prefix + text)["input_ids"]][:limit] for text in chosen]
    exact = _core(spec, {})
    cases = [(input_ids, _teacher_forcing(exact, spec, input_ids)) for input_ids in sources]
    expected = _logits(exact, cases)

    def cost(name: str, rounded: Mapping[str, np.ndarray]) -> Sensitivity:
        found = _logits(_core(spec, rounded), cases)
        kl = gates.kl_divergence(expected, found)
        changed = float((found.argmax(axis=1) != expected.argmax(axis=1)).mean())
        n_weights = sum(weight.size for weight in rounded.values())
        return Sensitivity(name, n_weights, float(kl.mean()), float(np.percentile(kl, 99)), changed)

    matrices = {name: _round(weight) for name, weight in _matrices(spec).items()}
    costs = []
    for n_done, (name, weight) in enumerate(matrices.items(), 1):
        costs.append(cost(name, {name: weight}))
        on_progress(n_done, len(matrices))
    return [cost(ALL, matrices), *sorted(costs, key=lambda one: -one.mean_kl)]


def _matrices(spec: ModelSpec) -> dict[str, np.ndarray]:
    """Those that an int8 bundle rounds, float32 [out, in], by name."""
    int8 = {**spec.keys, "weights_dtype": "int8"}
    int8_encoder = {**spec.encoder_keys, "weights_dtype": "int8"}
    parts = (
        ("encoder", encoder_weights.expected_tensors(int8_encoder, int8), spec.encoder_tensors),
        ("decoder", expected_tensors(int8), spec.tensors),
    )
    return {
        f"{part}.{name}": tensors[name]
        for part, wanted, tensors in parts
        for name, tensor in wanted.items()
        if tensor.dtype == "int8"
    }


def _round(weight: np.ndarray) -> np.ndarray:
    codes, scales = quantize_rows(weight)
    rounded: np.ndarray = codes * scales[:, None]
    return rounded


def _core(spec: ModelSpec, rounded: Mapping[str, np.ndarray]) -> DecoderModel:
    """The model in float32, but for the matrices of `rounded`."""

    def part(name: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: rounded.get(f"{name}.{key}", tensor) for key, tensor in tensors.items()}

    encoder = encoder_weights.write_encoder_weights(
        spec.encoder_keys, part("encoder", spec.encoder_tensors), spec.keys
    )
    return DecoderModel(write_weights(spec.keys, part("decoder", spec.tensors)), encoder=encoder)


def _teacher_forcing(core: DecoderModel, spec: ModelSpec, input_ids: Sequence[int]) -> list[int]:
    """What the decoder is given: its start token, and what greedy search writes but for the last token."""
    defaults = greedy_search(spec.generation)
    with core.session(1, 1, len(input_ids), defaults.max_new_tokens) as session:
        session.encode(0, input_ids)
        token_ids = session.generate(defaults)[0][0].token_ids
    return [int(spec.keys["decoder_start_token_id"]), *token_ids[:-1]]


def _logits(core: DecoderModel, cases: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Floats:
    """After each token of each case, [n, vocab_size]: teacher forcing."""
    logits = []
    for input_ids, decoder_ids in cases:
        with core.session(1, 1, len(input_ids), len(decoder_ids)) as session:
            session.encode(0, input_ids)
            logits += [session.step([token]) for token in decoder_ids]
    return np.concatenate(logits)
