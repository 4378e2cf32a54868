"""Random weights of encoders and decoders with any features, whose hidden states keep their size."""

from collections.abc import Mapping

import numpy as np

from edge_s2s.encoder_weights import KEYS, write_encoder_weights
from edge_s2s.encoder_weights import expected_tensors as encoder_tensors
from edge_s2s.weights import Key, Tensor, TensorSpec, expected_tensors, read_weights, write_weights
from edge_s2s_export.quantize import quantize_tensors
from tiny_bundle import tiny_keys

SIZES: Mapping[str, Key] = {  # no multiple of a tile; heads x head size is not d_model
    "vocab_size": 37,
    "d_model": 20,
    "d_ff": 28,
    "n_layers": 2,
    "n_heads": 3,
    "d_head": 6,
    "norm_eps": 1e-5,
    "generation.num_beams": 1,
    "generation.num_return_sequences": 1,
}
LINEAR_LAYERS = tuple(f".{name}.weight" for name in ("qkv", "q", "kv", "o", "up", "down"))
ENCODER_SIZES: Mapping[str, Key] = {"d_ff": 30, "n_layers": 3, "n_heads": 2, "d_head": 7}


def random_weights(features: Mapping[str, Key], *, seed: int = 0, n_positions: int = 5) -> bytes:
    """`decoder.weights` with keys of `SIZES` and `features`.

    A position table has a row more than any sequence has tokens; a position bias has `n_positions` columns.
    """
    keys = {**tiny_keys(), **SIZES, **features}
    float_keys: dict[str, Key] = {**keys, "weights_dtype": "float32", "head_rescore": 0}
    tensors = _random_tensors(expected_tensors(float_keys), keys, seed, n_positions)
    if keys["weights_dtype"] == "float32":
        return write_weights(float_keys, tensors)
    matrices = {name for name, spec in expected_tensors(keys).items() if spec.dtype == "int8"}
    return write_weights(keys, quantize_tensors(tensors, matrices))


def random_encoder(
    features: Mapping[str, Key], decoder: bytes, *, seed: int = 0, n_positions: int = 9
) -> bytes:
    """`encoder.weights` with keys of `ENCODER_SIZES` and `features`, for a decoder of `random_weights`."""
    decoder_keys = read_weights(decoder).keys
    keys = {**{name: decoder_keys[name] for name in KEYS}, **ENCODER_SIZES, **features}
    keys = {name: keys[name] for name in KEYS}
    float_expected = encoder_tensors({**keys, "weights_dtype": "float32"}, decoder_keys)
    tensors = _random_tensors(float_expected, {**decoder_keys, **keys}, seed, n_positions)
    matrices = {name for name, spec in encoder_tensors(keys, decoder_keys).items() if spec.dtype == "int8"}
    return write_encoder_weights(keys, quantize_tensors(tensors, matrices), decoder_keys)


def _random_tensors(
    expected: Mapping[str, TensorSpec], keys: Mapping[str, Key], seed: int, n_positions: int
) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    tensors: dict[str, Tensor] = {}
    for name, spec in expected.items():
        if name == "position_embedding.weight":
            longest = max(int(keys["max_source_len"]), int(keys["max_target_len"]))
            shape = (longest + 1, int(keys["d_model"]))
        else:
            shape = tuple(n_positions if n is None else n for n in spec.shape)
        values = rng.standard_normal(shape)
        if name.endswith("norm.weight"):
            values = 1 + 0.3 * values
        elif name.endswith(LINEAR_LAYERS):
            values /= np.sqrt(shape[1])
        tensors[name] = values.astype(np.float32)
    return tensors
