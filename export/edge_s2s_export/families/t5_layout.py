"""The layout of T5's descendants: pre-norm RMSNorm, no linear biases, relative position bias.

What is special, and where it goes:

* attention scores are not divided by sqrt(d_head), the initialization took care of it;
* with a tied head the last hidden state is multiplied by d_model ** -0.5: folded into the final norm;
* the position bias is exported by distance: the runtime knows no buckets.
"""

from typing import Any

import torch
from torch import Tensor

from edge_s2s.encoder_weights import KEYS as ENCODER_KEYS

from ..generation_defaults import as_keys, generation_defaults, special_token_keys
from ..model_spec import EncoderWithCrossKV, ModelSpec
from .layout import activation, as_arrays, check_pair, embedding_tables, table_keys


def describe(
    model: Any, tokenizer: Any, *, bias_per_layer: bool, max_source_len: int, max_target_len: int
) -> ModelSpec:
    """The `ModelSpec` of a model whose modules have T5's names."""
    config = model.config
    tables = embedding_tables(
        model.encoder.embed_tokens.weight, model.decoder.embed_tokens.weight, model.lm_head.weight
    )
    check_pair(tokenizer, len(model.encoder.embed_tokens.weight))
    defaults = generation_defaults(model.generation_config, max_target_len=max_target_len)
    keys = {
        **table_keys(tables),
        "d_model": config.d_model,
        "d_ff": config.d_ff,
        "n_layers": config.num_decoder_layers,
        "n_heads": config.num_heads,
        "d_head": config.d_kv,
        "max_source_len": max_source_len,
        "max_target_len": max_target_len,
        "weights_dtype": "float32",
        "norm": "rms",
        "norm_position": "pre",
        "norm_eps": float(config.layer_norm_epsilon),
        "position": "relative_bias",
        "position_bias_per_layer": int(bias_per_layer),
        "ffn": ("gated_" if config.is_gated_act else "") + activation(config.dense_act_fn),
        "embedding_scale": 1.0,
        "embedding_norm": 0,
        "final_norm": 1,
        "linear_bias": 0,
        "final_logits_bias": 0,
        "head_rescore": 0,
        "prefix": "",
        **special_token_keys(config, model.generation_config),
        **as_keys(defaults),
    }
    cross_attentions = [block.layer[1].EncDecAttention for block in model.decoder.block]
    encoder = EncoderWithCrossKV(
        model.encoder,
        [(attention.k, attention.v) for attention in cross_attentions],
        n_heads=config.num_heads,
        d_head=config.d_kv,
    )
    return ModelSpec(
        keys=keys,
        tensors=as_arrays(tables | _tensors(model, bias_per_layer=bias_per_layer)),
        encoder=encoder.eval(),
        encoder_keys={
            **{name: keys[name] for name in ENCODER_KEYS if name in keys},
            "n_layers": config.num_layers,
        },
        encoder_tensors=as_arrays(_encoder_tensors(model, bias_per_layer=bias_per_layer)),
        decoder_layers=list(model.decoder.block),
        n_encoder_layers=config.num_layers,
        generation=defaults,
    )


def _tensors(model: Any, *, bias_per_layer: bool) -> dict[str, Tensor]:
    """All but the tables, under our names. Comments give shapes; inner = n_heads * d_head."""
    config = model.config
    output_scale = config.d_model**-0.5 if config.tie_word_embeddings else 1.0
    tensors = {"final_norm.weight": model.decoder.final_layer_norm.weight * output_scale}
    if not bias_per_layer:
        tensors["position_bias"] = position_bias(model.decoder.block[0], config)
    for i, block in enumerate(model.decoder.block):
        cross_attention = block.layer[1]
        tensors |= _layer_tensors(f"layers.{i}", block, config, bias_per_layer=bias_per_layer)
        tensors |= {
            f"layers.{i}.cross_attn_norm.weight": cross_attention.layer_norm.weight,
            f"layers.{i}.cross_attn.q.weight": cross_attention.EncDecAttention.q.weight,  # [inner, d_model]
            f"layers.{i}.cross_attn.o.weight": cross_attention.EncDecAttention.o.weight,
        }
    return tensors


def _encoder_tensors(model: Any, *, bias_per_layer: bool) -> dict[str, Tensor]:
    """All of encoder.weights, under our names."""
    config = model.config
    tensors = {"final_norm.weight": model.encoder.final_layer_norm.weight}
    if not bias_per_layer:
        tensors["position_bias"] = _encoder_position_bias(model.encoder.block[0], config)
    for i, block in enumerate(model.encoder.block):
        tensors |= _layer_tensors(f"layers.{i}", block, config, bias_per_layer=bias_per_layer)
    for i, block in enumerate(model.decoder.block):
        attention = block.layer[1].EncDecAttention
        name = f"decoder_layers.{i}.cross_attn.kv.weight"
        tensors[name] = torch.cat([attention.k.weight, attention.v.weight])  # [2 * inner, d_model]
    return tensors


def _layer_tensors(name: str, block: Any, config: Any, *, bias_per_layer: bool) -> dict[str, Tensor]:
    """What the layers of encoder and decoder have in common."""
    self_attention, feed_forward = block.layer[0], block.layer[-1]
    q, k, v, o = (getattr(self_attention.SelfAttention, name).weight for name in "qkvo")
    dense = feed_forward.DenseReluDense
    up = torch.cat([dense.wi_0.weight, dense.wi_1.weight]) if config.is_gated_act else dense.wi.weight
    layer = {
        "self_attn_norm.weight": self_attention.layer_norm.weight,  # [d_model]
        "self_attn.qkv.weight": torch.cat([q, k, v]),  # [3 * inner, d_model]
        "self_attn.o.weight": o,  # [d_model, inner]
        "ffn_norm.weight": feed_forward.layer_norm.weight,
        "ffn.up.weight": up,  # [d_ff, d_model], gated: [2 * d_ff, d_model], the gate first
        "ffn.down.weight": dense.wo.weight,  # [d_model, d_ff]
    }
    if bias_per_layer:
        is_decoder = self_attention.SelfAttention.is_decoder
        layer["position_bias"] = (position_bias if is_decoder else _encoder_position_bias)(block, config)
    return {f"{name}.{part}": tensor for part, tensor in layer.items()}


def position_bias(block: Any, config: Any) -> Tensor:
    """Bias of a key `distance` positions before the query, [n_heads, relative_attention_max_distance + 1].

    From that distance on all fall into the last bucket, so the last column also holds beyond the table.
    """
    attention = block.layer[0].SelfAttention
    n_distances = config.relative_attention_max_distance + 1
    # The last query of so many sees keys at the distances n_distances - 1, ..., 1, 0.
    bias: Tensor = attention.compute_bias(n_distances, n_distances)[0, :, -1]
    return bias.flip(-1)


def _encoder_position_bias(block: Any, config: Any) -> Tensor:
    """Bias of a key `distance` positions after the query, [n_heads, 2 * relative_attention_max_distance + 1].

    Column 0 is for the most negative distance; it and the last one hold beyond the table, as above.
    """
    attention, reach = block.layer[0].SelfAttention, config.relative_attention_max_distance
    bias: Tensor = attention.compute_bias(2 * reach + 1, 2 * reach + 1)[0, :, reach]  # of the middle query
    return bias
