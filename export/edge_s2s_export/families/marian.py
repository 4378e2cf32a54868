"""Marian (`MarianMTModel`, Junczys-Dowmunt et al. 2018, OPUS-MT): post-norm, sines for positions.

It starts with the pad token and forbids it afterwards (`bad_words_ids`). With
`share_encoder_decoder_embeddings` off, source and target have vocabularies of their own.
"""

from typing import Any

from ..model_spec import ModelSpec
from . import bart_layout


def describe(model: Any, tokenizer: Any = None) -> ModelSpec:
    """The `ModelSpec` of a `MarianMTModel`."""
    return bart_layout.describe(
        model,
        tokenizer,
        norm_position="post",
        ends=lambda stack: bart_layout.StackEnds(None, None, stack.embed_positions.weight),
        final_logits_bias=model.final_logits_bias,
    )
