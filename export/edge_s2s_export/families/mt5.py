"""mT5 (`MT5ForConditionalGeneration`, Xue et al. 2021): T5 v1.1 with 101 languages and 250,112 tokens.

Heads times their size differ from d_model (6 * 64 and 512 in mt5-small), and the head is not tied.
"""

from typing import Any

from ..model_spec import ModelSpec
from . import t5, t5_layout


def describe(model: Any, tokenizer: Any = None) -> ModelSpec:
    """The `ModelSpec` of an `MT5ForConditionalGeneration`."""
    return t5_layout.describe(
        model,
        tokenizer,
        bias_per_layer=False,
        max_source_len=t5.MAX_SOURCE_LEN,
        max_target_len=t5.MAX_TARGET_LEN,
    )
