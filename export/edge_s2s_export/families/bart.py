"""BART (`BartForConditionalGeneration`, Lewis et al. 2020): post-norm, a norm after the embedding."""

from typing import Any

from ..model_spec import ModelSpec
from . import bart_layout

POSITION_OFFSET = 2  # its learned table begins with two rows that no position uses


def describe(model: Any, tokenizer: Any = None) -> ModelSpec:
    """The `ModelSpec` of a `BartForConditionalGeneration`."""
    decoder = model.model.decoder
    return bart_layout.describe(
        model,
        tokenizer,
        norm_position="post",
        embedding_norm=decoder.layernorm_embedding,
        final_norm=None,
        position_table=decoder.embed_positions.weight[POSITION_OFFSET:],
        final_logits_bias=model.final_logits_bias,
    )
