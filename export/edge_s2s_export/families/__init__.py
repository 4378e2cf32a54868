"""Model families, each from one transformers class to a `ModelSpec`. Only here `T5` is a word."""

from collections.abc import Callable
from typing import Any

from ..errors import ExportError
from ..model_spec import ModelSpec
from . import bart, byt5, m2m_100, marian, mbart, mt5, pegasus, t5, umt5

FAMILIES: dict[str, Callable[[Any, Any], ModelSpec]] = {
    "t5": t5.describe,  # T5 v1.0, T5 v1.1, Flan-T5
    "byt5": byt5.describe,
    "mt5": mt5.describe,
    "umt5": umt5.describe,
    "bart": bart.describe,
    "mbart": mbart.describe,
    "pegasus": pegasus.describe,
    "marian": marian.describe,
    "m2m_100": m2m_100.describe,  # M2M100, NLLB
}
"""Family -> describe(model, tokenizer). A family is transformers' `model_type`, but see `family_of`."""


def family_of(config: Any) -> str:
    """The family of a transformers config: its `model_type`, except that ByT5 calls itself `t5`.

    Raises `ExportError` for a family that cannot be exported.
    """
    if config.model_type == "t5" and getattr(config, "tokenizer_class", None) == "ByT5Tokenizer":
        return "byt5"
    if config.model_type not in FAMILIES:
        raise ExportError(
            f"config.json: model_type {config.model_type!r} is unknown; known: {', '.join(sorted(FAMILIES))}"
        )
    return str(config.model_type)


def describe(model: Any, tokenizer: Any = None) -> ModelSpec:
    """The `ModelSpec` of a transformers model. Raises `ExportError` for an unknown family or feature."""
    return FAMILIES[family_of(model.config)](model, tokenizer)
