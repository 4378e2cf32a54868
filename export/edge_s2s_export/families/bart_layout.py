"""The layout of BART's descendants: LayerNorm, biases everywhere, position tables.

What is special, and where it goes:

* attention scores are divided by sqrt(d_head): folded into q's weight and bias;
* the embedding scale is a number for the decoder, and a part of the graph for the encoder, which gets rows as
  they are stored;
* position tables are stored as they are, learned or computed, from the row of position 0 on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..generation_defaults import as_keys, generation_defaults, special_token_keys
from ..model_spec import EncoderWithCrossKV, ModelSpec
from .layout import activation, as_arrays, check_pair, embedding_tables, table_keys


class StackEnds(NamedTuple):
    """What encoder or decoder have before and after their layers."""

    embedding_norm: nn.LayerNorm | None
    final_norm: nn.LayerNorm | None
    position_table: Tensor
    """[n_positions, d_model]: row p is for position p"""


def describe(
    model: Any,
    tokenizer: Any,
    *,
    norm_position: str,
    ends: Callable[[Any], StackEnds],
    final_logits_bias: Tensor | None,
) -> ModelSpec:
    """The `ModelSpec` of a model whose modules have BART's names.

    `ends` gets the encoder's module, and the decoder's. `final_logits_bias` is [1, vocab_size]; transformers
    gives most families one and leaves it at zero.
    """
    config, encoder, decoder = model.config, model.model.encoder, model.model.decoder
    tables = embedding_tables(encoder.embed_tokens.weight, decoder.embed_tokens.weight, model.lm_head.weight)
    check_pair(tokenizer, len(encoder.embed_tokens.weight))
    max_len = config.max_position_embeddings  # of source and target
    defaults = generation_defaults(model.generation_config, max_target_len=max_len)
    n_heads = config.decoder_attention_heads
    embedding_scale = config.d_model**0.5 if config.scale_embedding else 1.0
    tensors = tables | _stack_tensors(decoder, ends(decoder), max_len)
    if has_logits_bias := final_logits_bias is not None and bool(final_logits_bias.any()):
        tensors["final_logits_bias"] = final_logits_bias[0]
    for i, layer in enumerate(decoder.layers):
        attention = layer.encoder_attn
        tensors |= _pair(f"layers.{i}.cross_attn_norm", layer.encoder_attn_layer_norm)
        tensors |= _pair(f"layers.{i}.cross_attn.q", attention.q_proj, scale=attention.scaling)
        tensors |= _pair(f"layers.{i}.cross_attn.o", attention.out_proj)
    encoder_tensors = _stack_tensors(encoder, ends(encoder), max_len)
    for i, layer in enumerate(decoder.layers):
        k, v = layer.encoder_attn.k_proj, layer.encoder_attn.v_proj
        for part in ("weight", "bias"):
            name = f"decoder_layers.{i}.cross_attn.kv.{part}"
            encoder_tensors[name] = torch.cat([getattr(k, part), getattr(v, part)])
    stack_keys = {
        "d_model": config.d_model,
        "weights_dtype": "float32",
        "norm": "layer",
        "norm_position": norm_position,
        "norm_eps": float(decoder.layers[0].final_layer_norm.eps),
        "position": "table",
        "position_bias_per_layer": 0,
        "ffn": activation(config.activation_function),
        "embedding_scale": embedding_scale,
        "linear_bias": 1,
    }
    keys = {
        **stack_keys,
        **_own_keys(decoder, ends(decoder), n_heads),
        **table_keys(tables),
        "max_source_len": max_len,
        "max_target_len": max_len,
        "final_logits_bias": int(has_logits_bias),
        "head_rescore": 0,
        "prefix": "",
        **special_token_keys(config, model.generation_config),
        **as_keys(defaults),
    }
    graph = EncoderWithCrossKV(
        encoder,
        [(layer.encoder_attn.k_proj, layer.encoder_attn.v_proj) for layer in decoder.layers],
        n_heads=n_heads,
        d_head=config.d_model // n_heads,
        embedding_scale=embedding_scale,
    )
    return ModelSpec(
        keys=keys,
        tensors=as_arrays(tensors),
        encoder=graph.eval(),
        encoder_keys={
            **stack_keys,
            **_own_keys(encoder, ends(encoder), config.encoder_attention_heads),
        },
        encoder_tensors=as_arrays(encoder_tensors),
        decoder_layers=list(decoder.layers),
        n_encoder_layers=len(encoder.layers),
        generation=defaults,
    )


def _own_keys(stack: Any, ends: StackEnds, n_heads: int) -> dict[str, int]:
    """The keys in which encoder and decoder may differ."""
    return {
        "d_ff": stack.layers[0].fc1.out_features,
        "n_layers": len(stack.layers),
        "n_heads": n_heads,
        "d_head": stack.config.d_model // n_heads,
        "embedding_norm": int(ends.embedding_norm is not None),
        "final_norm": int(ends.final_norm is not None),
    }


def _stack_tensors(stack: Any, ends: StackEnds, max_len: int) -> dict[str, Tensor]:
    """What encoder and decoder have in common, under our names."""
    tensors = {"position_embedding.weight": ends.position_table[:max_len]}
    for name, norm in {"embedding_norm": ends.embedding_norm, "final_norm": ends.final_norm}.items():
        if norm is not None:
            tensors |= _pair(name, norm)
    for i, layer in enumerate(stack.layers):
        tensors |= {f"layers.{i}.{name}": tensor for name, tensor in _layer_tensors(layer).items()}
    return tensors


def _layer_tensors(layer: Any) -> dict[str, Tensor]:
    """Self-attention and feed-forward: weights [out, in], biases [out]; qkv is q, then k, then v."""
    tensors = {
        **_pair("self_attn_norm", layer.self_attn_layer_norm),
        **_pair("self_attn.o", layer.self_attn.out_proj),
        **_pair("ffn_norm", layer.final_layer_norm),
        **_pair("ffn.up", layer.fc1),
        **_pair("ffn.down", layer.fc2),
    }
    q = _pair("q", layer.self_attn.q_proj, scale=layer.self_attn.scaling)
    k, v = _pair("k", layer.self_attn.k_proj), _pair("v", layer.self_attn.v_proj)
    for part in ("weight", "bias"):
        rows = [q[f"q.{part}"], k[f"k.{part}"], v[f"v.{part}"]]
        tensors[f"self_attn.qkv.{part}"] = torch.cat(rows)
    return tensors


def _pair(name: str, module: Any, *, scale: float = 1.0) -> dict[str, Tensor]:
    """Weight and bias of a linear layer or a norm, both times `scale`."""
    return {f"{name}.{part}": getattr(module, part) * scale for part in ("weight", "bias")}
