"""Random weights of a decoder with any features, whose hidden states keep their size from layer to layer."""

from collections.abc import Mapping

import numpy as np

from edge_s2s.weights import Key, Tensor, expected_tensors, write_weights
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


def random_weights(features: Mapping[str, Key], *, seed: int = 0, n_positions: int = 5) -> bytes:
    """`decoder.weights` with keys of `SIZES` and `features`.

    A position table has one row more than the model has positions; a position bias has `n_positions` columns.
    """
    keys = {**tiny_keys(), **SIZES, **features}
    float_keys: dict[str, Key] = {**keys, "weights_dtype": "float32", "head_rescore": 0}
    rng = np.random.default_rng(seed)
    tensors: dict[str, Tensor] = {}
    for name, spec in expected_tensors(float_keys).items():
        if name == "position_embedding.weight":
            shape = (int(keys["max_target_len"]) + 1, int(keys["d_model"]))
        else:
            shape = tuple(n_positions if n is None else n for n in spec.shape)
        values = rng.standard_normal(shape)
        if name.endswith("norm.weight"):
            values = 1 + 0.3 * values
        elif name.endswith((".qkv.weight", ".q.weight", ".o.weight", ".up.weight", ".down.weight")):
            values /= np.sqrt(shape[1])
        tensors[name] = values.astype(np.float32)
    if keys["weights_dtype"] == "float32":
        return write_weights(float_keys, tensors)
    matrices = {name for name, spec in expected_tensors(keys).items() if spec.dtype == "int8"}
    return write_weights(keys, quantize_tensors(tensors, matrices))
