"""Random T5 models, small enough to run by the hundred and with outputs worth comparing.

Freshly initialised models repeat one token. In these, attention and feed-forward outweigh the embedding and
the head is sharp, so the best token changes from step to step and with the source, and some reach EOS.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import T5Config, T5ForConditionalGeneration

from edge_s2s.decoder import DecoderModel, Floats, Hypothesis
from edge_s2s.manifest import GenerationDefaults
from edge_s2s.weights import write_weights
from edge_s2s_export.families import t5
from edge_s2s_export.model_spec import ModelSpec

START, EOS = 0, 1  # START is the pad token too, as in every T5
SIZES = {  # transformers' cache cannot hold more layers in the decoder than in the encoder
    "vocab_size": 64,
    "d_model": 32,
    "d_ff": 48,
    "d_kv": 8,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 1,
}
KINDS = {  # what differs between the members of the family
    "t5": {"feed_forward_proj": "relu", "tie_word_embeddings": True},
    "t5-untied": {"feed_forward_proj": "relu", "tie_word_embeddings": False, "num_decoder_layers": 2},
    "t5-v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "d_kv": 5},
    "t5-v1.1-tied": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": True, "num_heads": 3},
    "t5-silu": {"feed_forward_proj": "gated-silu", "tie_word_embeddings": False, "d_ff": 33},
}


@dataclass(frozen=True)
class TinyModel:
    """A transformers model, and its decoder as ours with float32 weights."""

    hf: T5ForConditionalGeneration
    spec: ModelSpec
    decoder: DecoderModel

    def cross_kv(self, input_ids: list[int]) -> Floats:
        """What the encoder hands to the decoder: float32 [n_layers, 2, n_heads, source_len, d_head]."""
        with torch.no_grad():
            embeds = self.hf.shared(torch.tensor([input_ids]))
            return self.spec.encoder(embeds)["cross_kv"][0].numpy()

    def generate(
        self, cross_kvs: list[Floats], *, callbacks: Any = None, **options: Any
    ) -> list[list[Hypothesis]]:
        """Our generate() in a session of its own. `options` are transformers'; the others are off."""
        params = replace(GenerationDefaults.from_keys(self.spec.keys), **options)
        longest = max(cross_kv.shape[3] for cross_kv in cross_kvs)
        with self.decoder.session(
            len(cross_kvs), params.num_beams, longest, params.max_new_tokens
        ) as session:
            for row, cross_kv in enumerate(cross_kvs):
                session.set_source(row, cross_kv)
            return session.generate(params, **(callbacks or {}))


def random_t5(kind: str, seed: int, **config: Any) -> TinyModel:
    """A model of `KINDS[kind]`; `config` overrides single values of its T5Config."""
    torch.manual_seed(seed)
    special = {"decoder_start_token_id": START, "pad_token_id": START, "eos_token_id": EOS}
    hf = T5ForConditionalGeneration(T5Config(**{**SIZES, **KINDS[kind], **special, **config})).eval()
    tied_head = hf.config.d_model**0.5 if hf.config.tie_word_embeddings else 1.0  # which is scaled down again
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            if name == "decoder.final_layer_norm.weight":
                weight.fill_(0.6 * tied_head)
            elif name.endswith("layer_norm.weight"):
                weight.uniform_(0.7, 1.3)
            elif name.endswith("relative_attention_bias.weight"):
                weight.normal_(std=2.0)
            elif name in ("shared.weight", "lm_head.weight"):
                weight.normal_()
                weight[EOS] *= 2.0  # more often the best token
            else:
                gain = 4.0 if name.endswith((".o.weight", ".wo.weight")) else 1.5
                weight.normal_(std=gain * weight.shape[1] ** -0.5)
    spec = t5.describe(hf)
    return TinyModel(hf, spec, DecoderModel(write_weights(spec.keys, spec.tensors)))
