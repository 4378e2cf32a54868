"""BART (`BartForConditionalGeneration`, Lewis et al. 2020): post-norm, a norm after the embedding."""

from typing import Any

from ..model_spec import ModelSpec
from . import bart_layout

POSITION_OFFSET = 2  # its learned table begins with two rows that no position uses


def describe(model: Any, tokenizer: Any = None) -> ModelSpec:
    """The `ModelSpec` of a `BartForConditionalGeneration`."""
    return bart_layout.describe(
        model,
        tokenizer,
        norm_position="post",
        ends=lambda stack: bart_layout.StackEnds(
            stack.layernorm_embedding, None, stack.embed_positions.weight[POSITION_OFFSET:]
        ),
        final_logits_bias=model.final_logits_bias,
    )
