"""Random models of all families, small enough to run by the hundred and with outputs worth comparing.

Freshly initialised models repeat one token. In these, attention and feed-forward outweigh the embedding and
the head is sharp, so the best token changes from step to step and with the source, and some reach EOS.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from edge_s2s.decoder import DecoderModel, Floats, Hypothesis
from edge_s2s.manifest import GenerationDefaults
from edge_s2s.weights import write_weights
from edge_s2s_export import families
from edge_s2s_export.model_spec import ModelSpec

START, EOS = 0, 1  # of the T5 kinds; START is the pad token too
# transformers' cache cannot hold more layers in the decoder than in the encoder.
T5_SIZES = {
    "vocab_size": 64,
    "d_model": 32,
    "d_ff": 48,
    "d_kv": 8,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "decoder_start_token_id": START,
    "pad_token_id": START,
    "eos_token_id": EOS,
}
BART_SIZES = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 4,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
MARIAN_IDS = {"eos_token_id": 0, "bos_token_id": None, "pad_token_id": 63, "decoder_start_token_id": 63}

_T5 = (T5ForConditionalGeneration, T5Config)
_MT5 = (MT5ForConditionalGeneration, MT5Config)
_UMT5 = (UMT5ForConditionalGeneration, UMT5Config)
_BART = (BartForConditionalGeneration, BartConfig)
_MBART = (MBartForConditionalGeneration, MBartConfig)
_PEGASUS = (PegasusForConditionalGeneration, PegasusConfig)
_MARIAN = (MarianMTModel, MarianConfig)
_M2M100 = (M2M100ForConditionalGeneration, M2M100Config)

KINDS: dict[str, dict[str, Any]] = {  # what differs between the members of the family T5
    "t5": {"feed_forward_proj": "relu", "tie_word_embeddings": True},
    "t5-untied": {"feed_forward_proj": "relu", "tie_word_embeddings": False, "num_decoder_layers": 2},
    "t5-v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "d_kv": 5},
    "t5-v1.1-tied": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": True, "num_heads": 3},
    "t5-silu": {"feed_forward_proj": "gated-silu", "tie_word_embeddings": False, "d_ff": 33},
}
# Kind -> classes of transformers, and what its config has beside the sizes. The first kind of a family is
# configured as its published checkpoints are.
ALL_KINDS: dict[str, tuple[tuple[Any, Any], dict[str, Any]]] = {
    **{kind: (_T5, config) for kind, config in KINDS.items()},
    "mt5": (_MT5, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_heads": 3}),
    "mt5-tied": (_MT5, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": True, "d_kv": 5}),
    "umt5": (_UMT5, {"tie_word_embeddings": False, "num_decoder_layers": 2}),
    "umt5-tied": (_UMT5, {"tie_word_embeddings": True, "num_decoder_layers": 2, "num_heads": 3}),
    "byt5": (_T5, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
                   "num_layers": 3, "tokenizer_class": "ByT5Tokenizer"}),
    "bart": (_BART, {}),
    "bart-untied": (_BART, {"tie_word_embeddings": False, "scale_embedding": True, "decoder_layers": 2}),
    "mbart": (_MBART, {"scale_embedding": True}),
    "mbart-untied": (_MBART, {"tie_word_embeddings": False, "activation_function": "relu"}),
    "pegasus": (_PEGASUS, {"scale_embedding": True, "activation_function": "relu", "pad_token_id": 0,
                           "eos_token_id": 1, "decoder_start_token_id": 0}),
    "pegasus-untied": (_PEGASUS, {"tie_word_embeddings": False, "activation_function": "gelu_new"}),
    "marian": (_MARIAN, {"scale_embedding": True, "activation_function": "swish", **MARIAN_IDS}),
    "marian-untied": (_MARIAN, {"tie_word_embeddings": False, "decoder_layers": 2, **MARIAN_IDS}),
    "marian-separate": (_MARIAN, {"scale_embedding": True, "activation_function": "swish",
                                  "share_encoder_decoder_embeddings": False, **MARIAN_IDS}),
    "m2m100": (_M2M100, {"scale_embedding": True}),
    "m2m100-untied": (_M2M100, {"tie_word_embeddings": False, "activation_function": "gelu"}),
}  # fmt: skip
FAMILY_KINDS = {
    "T5": ["t5", "t5-untied"],
    "T5 v1.1": ["t5-v1.1", "t5-v1.1-tied", "t5-silu"],
    "mT5": ["mt5", "mt5-tied"],
    "UMT5": ["umt5", "umt5-tied"],
    "ByT5": ["byt5"],
    "BART": ["bart", "bart-untied"],
    "mBART": ["mbart", "mbart-untied"],
    "Pegasus": ["pegasus", "pegasus-untied"],
    "Marian": ["marian", "marian-untied", "marian-separate"],
    "M2M100": ["m2m100", "m2m100-untied"],
}


@dataclass(frozen=True)
class TinyModel:
    """A transformers model, and its decoder as ours with float32 weights."""

    hf: Any
    spec: ModelSpec
    decoder: DecoderModel

    @property
    def eos(self) -> int:
        """Its EOS token."""
        return int(self.hf.config.eos_token_id)

    @property
    def pad(self) -> int:
        """Its padding token."""
        return int(self.hf.config.pad_token_id)

    @property
    def plain_tokens(self) -> list[int]:
        """All that are not special."""
        config = self.hf.config
        special = {
            config.eos_token_id,
            config.pad_token_id,
            config.bos_token_id,
            config.decoder_start_token_id,
        }
        return [token for token in range(config.vocab_size) if token not in special]

    def cross_kv(self, input_ids: list[int]) -> Floats:
        """What the encoder hands to the decoder: float32 [n_layers, 2, n_heads, source_len, d_head]."""
        return self.spec.cross_kv(input_ids)

    def generate(
        self,
        cross_kvs: list[Floats],
        *,
        sources: Sequence[Sequence[int]] | None = None,
        prefixes: Sequence[Sequence[int]] | None = None,
        callbacks: Any = None,
        **options: Any,
    ) -> list[list[Hypothesis]]:
        """Our generate() in a session of its own. `options` are transformers'; the others are off.

        Rules that read the `sources` need them. `prefixes` come after the start token.
        """
        params = replace(GenerationDefaults.from_keys(self.spec.keys), **options)
        longest = max(cross_kv.shape[3] for cross_kv in cross_kvs)
        target_len = max(map(len, prefixes or [[]])) + params.max_new_tokens
        with self.decoder.session(
            len(cross_kvs),
            params.rows_per_source,
            longest,
            target_len,
            max_draft_tokens=params.prompt_lookup_num_tokens,
        ) as session:
            for row, cross_kv in enumerate(cross_kvs):
                session.set_source(row, cross_kv, None if sources is None else sources[row])
            return session.generate(params, prefixes=prefixes, **(callbacks or {}))


def random_t5(kind: str, seed: int, **config: Any) -> TinyModel:
    """A model of `KINDS[kind]`; `config` overrides single values of its T5Config."""
    assert kind in KINDS
    return random_model(kind, seed, **config)


def random_model(kind: str, seed: int, **config: Any) -> TinyModel:
    """A model of `ALL_KINDS[kind]`; `config` overrides single values of its config."""
    hf = random_hf(kind, seed, **config)
    spec = families.describe(hf)
    return TinyModel(hf, spec, DecoderModel(write_weights(spec.keys, spec.tensors)))


def with_float16_cache(model: TinyModel) -> TinyModel:
    """The same weights with a KV cache in float16."""
    keys = {**model.spec.keys, "kv_cache_dtype": "float16"}
    return replace(model, decoder=DecoderModel(write_weights(keys, model.spec.tensors)))


def random_hf(kind: str, seed: int, **config: Any) -> Any:
    """The transformers model alone."""
    torch.manual_seed(seed)
    (model_class, config_class), own = ALL_KINDS[kind]
    is_t5 = "feed_forward_proj" in config_class().to_dict()
    sizes = T5_SIZES if is_t5 else BART_SIZES
    hf = model_class(config_class(**{**sizes, **own, **config})).eval()
    with torch.no_grad():
        (_fill_t5 if is_t5 else _fill_bart)(hf)
    return hf


def _fill_t5(hf: Any) -> None:
    tied_head = hf.config.d_model**0.5 if hf.config.tie_word_embeddings else 1.0  # which is scaled down again
    for name, weight in hf.named_parameters():
        if name == "decoder.final_layer_norm.weight":
            weight.fill_(0.6 * tied_head)
        elif name.endswith("layer_norm.weight"):
            weight.uniform_(0.7, 1.3)
        elif name.endswith("relative_attention_bias.weight"):
            weight.normal_(std=2.0)
        elif name in ("shared.weight", "lm_head.weight"):
            weight.normal_()
            weight[hf.config.eos_token_id] *= 2.0  # more often the best token
        else:
            gain = 4.0 if name.endswith((".o.weight", ".wo.weight")) else 1.5
            weight.normal_(std=gain * weight.shape[1] ** -0.5)


def _fill_bart(hf: Any) -> None:
    config, decoder = hf.config, hf.model.decoder
    scale = config.d_model**0.5 if config.scale_embedding else 1.0
    last_norm = decoder.layer_norm if hasattr(decoder, "layer_norm") else decoder.layers[-1].final_layer_norm
    for name, weight in hf.named_parameters():
        if name.endswith("embed_positions.weight"):
            if weight.requires_grad:  # learned, not sines
                weight.normal_()
        elif name.endswith(("shared.weight", "embed_tokens.weight")):
            weight.normal_(std=1 / scale)
            weight[config.eos_token_id] *= 2.0  # more often the best token
        elif name == "lm_head.weight":
            weight.normal_()
            weight[config.eos_token_id] *= 2.0
        elif weight.ndim == 1:
            is_norm_weight = "norm" in name and name.endswith("weight")
            weight.uniform_(0.7, 1.3) if is_norm_weight else weight.normal_(std=0.1)
        else:
            gain = 4.0 if name.endswith((".out_proj.weight", ".fc2.weight")) else 1.5
            if name.endswith("q_proj.weight"):
                gain = 6.0  # scores are divided by sqrt(d_head), which T5 does not do
            weight.normal_(std=gain * weight.shape[1] ** -0.5)
    is_tied = hf.lm_head.weight is decoder.embed_tokens.weight
    last_norm.weight.fill_(0.6 * (scale if is_tied else 1.0))
    if hasattr(hf, "final_logits_bias"):
        hf.final_logits_bias.normal_()
    else:
        _never_write(hf, config.pad_token_id, last_norm)


def _never_write(hf: Any, token: int, last_norm: Any) -> None:
    """Spends the first feature on keeping `token` from being generated; it is 3 in all hidden states.

    transformers gives a pad token within a text of M2M100 no position: it must not occur.
    """
    last_norm.weight[0], last_norm.bias[0] = 0.0, 3.0
    table: Tensor = hf.lm_head.weight
    table[:, 0] = 0.0
    table[token] = 0.0
    table[token, 0] = -10.0
