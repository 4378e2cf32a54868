"""T5, T5 v1.1 and Flan-T5 (`T5ForConditionalGeneration`): Raffel et al. 2020, Shazeer 2020 (GLU variants)."""

from typing import Any

from ..model_spec import ModelSpec
from . import t5_layout

# Relative positions set no limit; these are the longest document that takes one pass, and its answer.
MAX_SOURCE_LEN = 1024
MAX_TARGET_LEN = 512


def describe(model: Any, tokenizer: Any = None) -> ModelSpec:
    """The `ModelSpec` of a `T5ForConditionalGeneration`. A tokenizer, if given, must fit its vocabulary."""
    return t5_layout.describe(
        model,
        tokenizer,
        bias_per_layer=False,
        max_source_len=MAX_SOURCE_LEN,
        max_target_len=MAX_TARGET_LEN,
    )
