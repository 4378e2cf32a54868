"""tokenizer.json for a bundle: the same tokens, without regular expressions, which a bundle cannot bring.

Converted SentencePiece tokenizers, Flan-T5's for one, hold a single one: " {2,}" becomes "▁". Plain
replacements say it too, with a mark that no text has.
"""

import json
from typing import Any

from .errors import ExportError

MARK = "\ufdd0"  # one of Unicode's noncharacters, which are for internal use
RUNS_OF_BLANKS = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
REPLACEMENTS = [
    ("  ", MARK),  # a run of n becomes n // 2 marks, and a blank where n is odd
    (f"{MARK} ", MARK),
    *[(MARK * 2, MARK)] * 16,  # each halves their number: runs of up to 131072 blanks become one mark
    (MARK, "▁"),
]


def tokenizer_json(tokenizer: Any) -> bytes:
    """The file for a fast transformers tokenizer; raises `ExportError` for a slow one."""
    if not tokenizer.is_fast:
        raise ExportError(
            f"tokenizer: expected a fast one, with tokenizer.json, found {type(tokenizer).__name__}; "
            "convert it with AutoTokenizer.from_pretrained(source, use_fast=True).save_pretrained(source)"
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    document = json.loads(backend.to_str())
    document["normalizer"] = _without_regex(document["normalizer"])
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _without_regex(normalizer: Any) -> Any:
    if normalizer == RUNS_OF_BLANKS:
        members = [{"type": "Replace", "pattern": {"String": a}, "content": b} for a, b in REPLACEMENTS]
        return {"type": "Sequence", "normalizers": members}
    if normalizer is not None and normalizer["type"] == "Sequence":
        return {**normalizer, "normalizers": [_without_regex(member) for member in normalizer["normalizers"]]}
    return normalizer
