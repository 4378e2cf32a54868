"""Model families, each from one transformers class to a `ModelSpec`. Only here `T5` is a word."""

from typing import Any

from ..errors import ExportError
from ..model_spec import ModelSpec
from . import t5

FAMILIES = {"t5": t5.describe}
"""transformers' `model_type` -> describe(model, tokenizer). Flan-T5 and T5 v1.1 call themselves `t5`."""


def check_known(model_type: str) -> None:
    """Raises `ExportError` for a family that cannot be exported."""
    if model_type not in FAMILIES:
        raise ExportError(
            f"config.json: model_type {model_type!r} is unknown; known: {', '.join(sorted(FAMILIES))}"
        )


def describe(model: Any, tokenizer: Any = None) -> ModelSpec:
    """The `ModelSpec` of a transformers model. Raises `ExportError` for an unknown family or feature."""
    check_known(model.config.model_type)
    return FAMILIES[model.config.model_type](model, tokenizer)
