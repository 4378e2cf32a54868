"""Pegasus (`PegasusForConditionalGeneration`, Zhang et al. 2020): pre-norm, sines for positions."""

from typing import Any

from ..model_spec import ModelSpec
from . import bart_layout


def describe(model: Any, tokenizer: Any = None) -> ModelSpec:
    """The `ModelSpec` of a `PegasusForConditionalGeneration`."""
    return bart_layout.describe(
        model,
        tokenizer,
        norm_position="pre",
        ends=lambda stack: bart_layout.StackEnds(None, stack.layer_norm, stack.embed_positions.weight),
        final_logits_bias=model.final_logits_bias,
    )
