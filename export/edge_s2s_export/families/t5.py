"""T5, T5 v1.1 and Flan-T5 (`T5ForConditionalGeneration`): Raffel et al. 2020, Shazeer 2020 (GLU variants).

What is special, and where it goes:

* attention scores are not divided by sqrt(d_head), the initialization took care of it;
* with a tied head the last hidden state is multiplied by d_model ** -0.5: folded into the final norm;
* the position bias, buckets shared by all layers, is exported by distance: the runtime knows no buckets.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ExportError
from ..generation_defaults import as_keys, generation_defaults, special_token_keys
from ..model_spec import EncoderWithCrossKV, ModelSpec

MAX_SOURCE_LEN = 1024  # relative positions set no limit; this is the longest document that takes one pass
MAX_TARGET_LEN = 512

FFN = {  # dense_act_fn of the config -> ffn of the runtime
    "relu": "relu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}


def describe(model: Any, tokenizer: Any = None) -> ModelSpec:
    """The `ModelSpec` of a `T5ForConditionalGeneration`. A tokenizer, if given, must fit its vocabulary."""
    config = model.config
    if config.dense_act_fn not in FFN:
        raise ExportError(
            f"config.json: activation {config.dense_act_fn!r} is unknown; known: {', '.join(FFN)}"
        )
    if tokenizer is not None and len(tokenizer) > config.vocab_size:
        raise ExportError(
            f"tokenizer and model are not a pair: {len(tokenizer)} tokens, embeddings for {config.vocab_size}"
        )
    defaults = generation_defaults(model.generation_config, max_target_len=MAX_TARGET_LEN)
    keys = {
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "d_ff": config.d_ff,
        "n_layers": config.num_decoder_layers,
        "n_heads": config.num_heads,
        "d_head": config.d_kv,
        "max_source_len": MAX_SOURCE_LEN,
        "max_target_len": MAX_TARGET_LEN,
        "weights_dtype": "float32",
        "norm": "rms",
        "norm_position": "pre",
        "norm_eps": float(config.layer_norm_epsilon),
        "position": "relative_bias",
        "position_bias_per_layer": 0,
        "ffn": ("gated_" if config.is_gated_act else "") + FFN[config.dense_act_fn],
        "embedding_scale": 1.0,
        "embedding_norm": 0,
        "final_norm": 1,
        "linear_bias": 0,
        "tied_lm_head": int(config.tie_word_embeddings),
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
        tensors=_tensors(model),
        encoder=encoder.eval(),
        decoder_layers=list(model.decoder.block),
        n_encoder_layers=config.num_layers,
        generation=defaults,
    )


def _tensors(model: Any) -> dict[str, np.ndarray]:
    """The decoder's tensors under our names. Comments give shapes; inner = n_heads * d_head."""
    config = model.config
    tied = config.tie_word_embeddings
    if not torch.equal(model.decoder.embed_tokens.weight, model.shared.weight):
        raise ExportError(
            "the decoder's input embedding differs from the encoder's: a bundle stores one table"
        )
    tensors = {
        "embedding.weight": model.shared.weight,  # [vocab_size, d_model]
        "final_norm.weight": model.decoder.final_layer_norm.weight * (config.d_model**-0.5 if tied else 1.0),
        "position_bias": _position_bias(model),
    }
    if not tied:
        tensors["lm_head.weight"] = model.lm_head.weight  # [vocab_size, d_model]
    for i, block in enumerate(model.decoder.block):
        self_attention, cross_attention, feed_forward = block.layer
        q, k, v, o = (getattr(self_attention.SelfAttention, name).weight for name in "qkvo")
        dense = feed_forward.DenseReluDense
        up = torch.cat([dense.wi_0.weight, dense.wi_1.weight]) if config.is_gated_act else dense.wi.weight
        layer = {
            "self_attn_norm.weight": self_attention.layer_norm.weight,  # [d_model]
            "self_attn.qkv.weight": torch.cat([q, k, v]),  # [3 * inner, d_model]
            "self_attn.o.weight": o,  # [d_model, inner]
            "cross_attn_norm.weight": cross_attention.layer_norm.weight,
            "cross_attn.q.weight": cross_attention.EncDecAttention.q.weight,  # [inner, d_model]
            "cross_attn.o.weight": cross_attention.EncDecAttention.o.weight,
            "ffn_norm.weight": feed_forward.layer_norm.weight,
            "ffn.up.weight": up,  # [d_ff, d_model], gated: [2 * d_ff, d_model], the gate first
            "ffn.down.weight": dense.wo.weight,  # [d_model, d_ff]
        }
        tensors |= {f"layers.{i}.{name}": tensor for name, tensor in layer.items()}
    return {name: np.array(tensor.detach().float().numpy(), order="C") for name, tensor in tensors.items()}


def _position_bias(model: Any) -> Tensor:
    """Bias of a key `distance` positions before the query, [n_heads, relative_attention_max_distance + 1].

    From that distance on all fall into the last bucket, so the last column also holds beyond the table.
    """
    attention = model.decoder.block[0].layer[0].SelfAttention
    distances = torch.arange(attention.relative_attention_max_distance + 1)
    buckets = attention._relative_position_bucket(
        -distances,  # a key's position minus the query's
        bidirectional=False,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    bias: Tensor = attention.relative_attention_bias.weight[buckets].T  # [n_heads, n_distances]
    return bias
