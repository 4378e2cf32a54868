"""The layout of BART's descendants: LayerNorm, biases everywhere, position tables.

What is special, and where it goes:

* attention scores are divided by sqrt(d_head): folded into q's weight and bias;
* the embedding scale is a number for the decoder, and a part of the graph for the encoder, which gets rows as
  they are stored;
* position tables are stored as they are, learned or computed, from the row of position 0 on.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..generation_defaults import as_keys, generation_defaults, special_token_keys
from ..model_spec import EncoderWithCrossKV, ModelSpec
from .layout import activation, as_arrays, check_pair, embedding_tables, table_keys


def describe(
    model: Any,
    tokenizer: Any,
    *,
    norm_position: str,
    embedding_norm: nn.LayerNorm | None,
    final_norm: nn.LayerNorm | None,
    position_table: Tensor,
    final_logits_bias: Tensor | None,
) -> ModelSpec:
    """The `ModelSpec` of a model whose modules have BART's names.

    The norms are the decoder's own. Row p of `position_table` [n_positions, d_model] is for position p.
    `final_logits_bias` is [1, vocab_size]; transformers gives most families one and leaves it at zero.
    """
    config, encoder, decoder = model.config, model.model.encoder, model.model.decoder
    tables = embedding_tables(encoder.embed_tokens.weight, decoder.embed_tokens.weight, model.lm_head.weight)
    check_pair(tokenizer, len(encoder.embed_tokens.weight))
    max_len = config.max_position_embeddings  # of source and target
    defaults = generation_defaults(model.generation_config, max_target_len=max_len)
    n_heads = config.decoder_attention_heads
    embedding_scale = config.d_model**0.5 if config.scale_embedding else 1.0
    tensors = tables | {"position_embedding.weight": position_table[:max_len]}
    for name, norm in {"embedding_norm": embedding_norm, "final_norm": final_norm}.items():
        if norm is not None:
            tensors |= _pair(name, norm)
    if has_logits_bias := final_logits_bias is not None and bool(final_logits_bias.any()):
        tensors["final_logits_bias"] = final_logits_bias[0]
    for i, layer in enumerate(decoder.layers):
        tensors |= {f"layers.{i}.{name}": tensor for name, tensor in _layer_tensors(layer).items()}
    keys = {
        **table_keys(tables),
        "d_model": config.d_model,
        "d_ff": decoder.layers[0].fc1.out_features,
        "n_layers": len(decoder.layers),
        "n_heads": n_heads,
        "d_head": config.d_model // n_heads,
        "max_source_len": max_len,
        "max_target_len": max_len,
        "weights_dtype": "float32",
        "norm": "layer",
        "norm_position": norm_position,
        "norm_eps": float(decoder.layers[0].final_layer_norm.eps),
        "position": "table",
        "position_bias_per_layer": 0,
        "ffn": activation(config.activation_function),
        "embedding_scale": embedding_scale,
        "embedding_norm": int(embedding_norm is not None),
        "final_norm": int(final_norm is not None),
        "linear_bias": 1,
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
        decoder_layers=list(decoder.layers),
        n_encoder_layers=len(encoder.layers),
        generation=defaults,
    )


def _layer_tensors(layer: Any) -> dict[str, Tensor]:
    """A decoder layer under our names: weights [out, in], biases [out]; qkv is q, then k, then v."""
    tensors = {
        **_pair("self_attn_norm", layer.self_attn_layer_norm),
        **_pair("self_attn.o", layer.self_attn.out_proj),
        **_pair("cross_attn_norm", layer.encoder_attn_layer_norm),
        **_pair("cross_attn.q", layer.encoder_attn.q_proj, scale=layer.encoder_attn.scaling),
        **_pair("cross_attn.o", layer.encoder_attn.out_proj),
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
