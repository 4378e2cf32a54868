"""UMT5 (`UMT5ForConditionalGeneration`, Chung et al. 2023): mT5 with a position bias in every layer."""

from typing import Any

from ..model_spec import ModelSpec
from . import t5, t5_layout


def describe(model: Any, tokenizer: Any = None) -> ModelSpec:
    """The `ModelSpec` of a `UMT5ForConditionalGeneration`."""
    return t5_layout.describe(
        model,
        tokenizer,
        bias_per_layer=True,
        max_source_len=t5.MAX_SOURCE_LEN,
        max_target_len=t5.MAX_TARGET_LEN,
    )
