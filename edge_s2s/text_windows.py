"""Cuts a long text into windows that a tokenizer reads one by one: time and memory stay in proportion.

The tokenizers library takes some hundred bytes for each byte of a text, and more than twice the time for
twice the length. A window ends before a blank between two letters or digits, where no token can lie across
if a tokenizer `reads_windows`; only a run of MAX_CHARACTERS without such a place is cut anywhere.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

MIN_CHARACTERS = 1 << 13
MAX_CHARACTERS = 1 << 16

_PLACE = re.compile(r"(?<=\w) (?=\w)")
_INNER_BLANK = re.compile('[^"\u2581]\u2581')  # in a piece of a vocabulary, or it may be
_PROBES = [("a", "b"), ("one", "two"), ("1", "2"), ("é", "漢")]


class Window(NamedTuple):
    """A piece of a text."""

    text: str
    is_torn: bool
    """Whether it begins within a word: no blank stands before it"""


def windows(
    text: str, min_characters: int = MIN_CHARACTERS, max_characters: int = MAX_CHARACTERS
) -> Iterator[Window]:
    """The windows of a text, which joined are the text."""
    start, is_torn = 0, False
    while len(text) - start > min_characters:
        limit = start + max_characters
        place = _PLACE.search(text, start + min_characters, limit)
        end = place.start() if place else limit
        yield Window(text[start:end], is_torn)
        start, is_torn = end, place is None
    if start < len(text) or not text:
        yield Window(text[start:], is_torn)


def reads_windows(tokenizer: Any, data: bytes) -> bool:
    """Whether a tokenizer, which these bytes made, gives a text the tokens of its windows."""

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return found

    if any(ids(f"{a} {b}") != ids(a) + ids(f" {b}") for a, b in _PROBES):
        return False
    return _splits_words(tokenizer) or not (_INNER_BLANK.search(data.decode()) or b"\\u2581" in data)


def _splits_words(tokenizer: Any) -> bool:
    """Whether the model is asked for one word at a time."""
    if tokenizer.pre_tokenizer is None:
        return False
    text = "a b" if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str("a b")
    parts = tokenizer.pre_tokenizer.pre_tokenize_str(text)
    return len(parts) == 2 and len(parts[1][0]) == 2
