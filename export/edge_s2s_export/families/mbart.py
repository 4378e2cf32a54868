"""mBART and mBART-50 (`MBartForConditionalGeneration`, Liu et al. 2020, Tang et al. 2020).

BART with pre-norm: norms after the embedding and at the end. The target language is the first token: the
start token of a model for one language, `forced_bos_token_id` of one for many.
"""

from typing import Any

from ..model_spec import ModelSpec
from . import bart_layout
from .bart import POSITION_OFFSET


def describe(model: Any, tokenizer: Any = None) -> ModelSpec:
    """The `ModelSpec` of an `MBartForConditionalGeneration`."""
    return bart_layout.describe(
        model,
        tokenizer,
        norm_position="pre",
        ends=lambda stack: bart_layout.StackEnds(
            stack.layernorm_embedding, stack.layer_norm, stack.embed_positions.weight[POSITION_OFFSET:]
        ),
        final_logits_bias=model.final_logits_bias,
    )
