"""M2M100 and NLLB (`M2M100ForConditionalGeneration`, Fan et al. 2021, NLLB Team 2022).

Pre-norm, sines for positions, no logits bias. Source and target language are tokens; the target's is
`forced_bos_token_id`. A pad token inside a text has no position in transformers and an ordinary one here;
neither a tokenizer nor a trained model writes one.
"""

from typing import Any

from ..model_spec import ModelSpec
from . import bart_layout


def describe(model: Any, tokenizer: Any = None) -> ModelSpec:
    """The `ModelSpec` of an `M2M100ForConditionalGeneration`."""
    return bart_layout.describe(model, tokenizer, norm_position="pre", ends=_ends, final_logits_bias=None)


def _ends(stack: Any) -> bart_layout.StackEnds:
    positions = stack.embed_positions  # which count on from the pad id
    return bart_layout.StackEnds(None, stack.layer_norm, positions.weights[positions.padding_idx + 1 :])
