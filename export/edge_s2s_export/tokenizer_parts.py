"""The parts of a tokenizer.json that its writers share."""

import json
from collections.abc import Iterable, Mapping
from typing import Any


def added_token(token_id: int, content: str) -> dict[str, Any]:
    """A special token: never made from a text, never shown."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": content, **flags}


def replace(text: str, by: str) -> dict[str, Any]:
    """The component that replaces one text by another."""
    return {"type": "Replace", "pattern": {"String": text}, "content": by}


def template(head: Iterable[tuple[str, int]], tail: Iterable[tuple[str, int]]) -> dict[str, Any]:
    """The post-processor that puts special tokens, (name, id), around a text."""
    head, tail = [*head], [*tail]

    def special(tokens: list[tuple[str, int]]) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": name, "type_id": 0}} for name, _ in tokens]

    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [*special(head), text, *special(tail)],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in head + tail},
    }


def byte_pair_model(
    vocab: Mapping[str, int], merges: Iterable[Iterable[str]], **values: Any
) -> dict[str, Any]:
    """A BPE model; `values` other than the library's defaults."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **values,
        "vocab": dict(vocab),
        "merges": [[*pair] for pair in merges],
    }


def document(**parts: Any) -> bytes:
    """The file; a part that is not given is null."""
    names = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "model")
    values = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": parts["added_tokens"]}
    return dump({**values, **{name: parts.get(name) for name in names}})


def dump(value: Mapping[str, Any]) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
