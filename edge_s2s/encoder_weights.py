"""`encoder.weights`: the encoder for the C core, a file of the same format as `decoder.weights`.

`weights` specifies the format and the meaning of the keys, which are exactly these, and none is optional:

    int      d_model (the decoder's)   d_ff   n_layers   n_heads   d_head
             embedding_norm, final_norm, linear_bias, position_bias_per_layer
    float    norm_eps   embedding_scale
    string   weights_dtype   norm   norm_position   position   ffn

The tensors are exactly those of `expected_tensors`. Tokens are embedded by a table of decoder.weights, so
that no number is stored twice. A position table has a row for each of the decoder's max_source_len at least.
A position bias has an odd number of columns: the middle one is for the key at the query's own position, those
to the right for later keys; beyond, the outer ones hold. Keys and values of the decoder's cross-attention are
linear layers of the last hidden states, `decoder_layers.<i>.cross_attn.kv`: rows of k, then of v.
"""

from collections.abc import Mapping

from edge_s2s.errors import BundleError
from edge_s2s.weights import (
    Buffer,
    Key,
    StackSpecs,
    Tensor,
    TensorSpec,
    Weights,
    check_key_values,
    check_tensors,
    read_table,
    require_key,
    write_table,
)

FILE = "encoder.weights"
KEYS = (
    "d_model", "d_ff", "n_layers", "n_heads", "d_head", "embedding_norm", "final_norm", "linear_bias",
    "position_bias_per_layer", "norm_eps", "embedding_scale", "weights_dtype", "norm", "norm_position",
    "position", "ffn",
)  # fmt: skip
_MIN_TENSORS_PER_LAYER = 6


def expected_tensors(keys: Mapping[str, Key], decoder_keys: Mapping[str, Key]) -> dict[str, TensorSpec]:
    """Name -> dtype and shape of every tensor of an encoder with these keys, for a decoder with those."""
    decoder_inner = int(decoder_keys["n_heads"]) * int(decoder_keys["d_head"])
    specs = StackSpecs(keys)
    specs.positions()
    specs.optional_norm("embedding_norm")
    for i in range(int(keys["n_layers"])):
        specs.self_attention(f"layers.{i}")
        specs.feed_forward(f"layers.{i}")
    specs.optional_norm("final_norm")
    for i in range(int(decoder_keys["n_layers"])):
        specs.linear(f"decoder_layers.{i}.cross_attn.kv", 2 * decoder_inner, int(keys["d_model"]))
    return specs.tensors


def read_encoder_weights(data: Buffer, decoder_keys: Mapping[str, Key], *, file: str = FILE) -> Weights:
    """Checks `data` completely and returns views of it; raises BundleError, which names `file`."""
    minor, keys, tensors = read_table(data, file)
    if minor:
        raise BundleError(file, "minor version 0 without optional keys", f"{minor}")
    check_key_values(keys, KEYS, file)
    d_model, n_layers = decoder_keys["d_model"], int(keys["n_layers"])
    require_key(keys["d_model"] == d_model, keys, "d_model", f"{d_model} as in decoder.weights", file)
    if len(tensors) < _MIN_TENSORS_PER_LAYER * n_layers:  # before the list of all expected names is built
        raise BundleError(file, f"tensors of {n_layers} layers", f"{len(tensors)} tensors")
    positions = ("max_source_len", decoder_keys)
    check_tensors(expected_tensors(keys, decoder_keys), tensors, file, positions=positions)
    for name, tensor in tensors.items():
        if name.endswith("position_bias") and tensor.shape[1] % 2 == 0:
            raise BundleError(file, "an odd number of columns", f"{tensor.shape[1]}", tensor=name)
    return Weights(keys, tensors)


def write_encoder_weights(
    keys: Mapping[str, Key], tensors: Mapping[str, Tensor], decoder_keys: Mapping[str, Key]
) -> bytes:
    """The bytes of an `encoder.weights` file; what `read_encoder_weights` would refuse raises here."""
    written = write_table(keys, tensors)
    read_encoder_weights(written, decoder_keys)
    return written
