"""ByT5 (Xue et al. 2022): a T5 v1.1 over UTF-8 bytes, with an encoder three times as deep as the decoder.

Its config says `t5`; only the tokenizer's class tells it apart. Bytes make texts about four times as long.
"""

from typing import Any

from ..model_spec import ModelSpec
from . import t5_layout

MAX_SOURCE_LEN = 2048  # twice T5's: attention's scores, heads * length ** 2, are then 100 MB in byt5-small
MAX_TARGET_LEN = 1024


def describe(model: Any, tokenizer: Any = None) -> ModelSpec:
    """The `ModelSpec` of a `T5ForConditionalGeneration` whose tokenizer is a `ByT5Tokenizer`."""
    return t5_layout.describe(
        model,
        tokenizer,
        bias_per_layer=False,
        max_source_len=MAX_SOURCE_LEN,
        max_target_len=MAX_TARGET_LEN,
    )
