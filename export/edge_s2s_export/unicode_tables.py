"""What the tokenizers library knows of characters, asked of it and written as flat tables.

Its Unicode version is its own, and not Python's: what it does is what counts.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, normalizers, pre_tokenizers

N_CHARACTERS = 0x110000
PAGE = 128
NUMERIC, WHITE, LETTER, PYTHON_WHITE, NUMBER = 1, 2, 4, 8, 16
_OVERLAY, _IOTA = "\u0334", "\u0345"  # the lowest combining class but 0, and the highest
_HANGUL = range(0xAC00, 0xD7A4)
# All but the line break, which keeps texts apart below.
_CHARACTERS = [chr(c) for c in range(N_CHARACTERS) if not 0xD800 <= c < 0xE000 and chr(c) != "\n"]

Tables = Mapping[str, npt.NDArray[np.int8]]


def as_rows(numbers: Sequence[float] | npt.NDArray[Any], dtype: str, width: int = 1) -> npt.NDArray[np.int8]:
    """Little-endian numbers as the rows of an int8 tensor, `width` numbers in each."""
    array = np.asarray(numbers, dtype)
    return array.view(np.int8).reshape(-1, width * array.itemsize)


def _pages(name: str, values: npt.NDArray[Any]) -> dict[str, npt.NDArray[np.int8]]:
    """A table of all characters as pages, of which equal ones are stored once."""
    blocks: dict[bytes, int] = {}
    little = values.astype(values.dtype.newbyteorder("<"))
    pages = [blocks.setdefault(page.tobytes(), len(blocks)) for page in little.reshape(-1, PAGE)]
    return {
        f"{name}.pages": as_rows(pages, "<u2"),
        f"{name}.blocks": np.frombuffer(b"".join(blocks), np.int8).reshape(len(blocks), -1),
    }


@cache
def class_tables() -> Tables:
    """Which characters are numeric, white space or letters.

    Expressions know another Unicode version than Digits, so there are two kinds of numbers.
    """
    classes = np.zeros(N_CHARACTERS, np.uint8)
    for bit, splitter in (
        (NUMERIC, pre_tokenizers.Digits(individual_digits=False)),
        (NUMBER, pre_tokenizers.Split(Regex(r"\p{N}"), "contiguous")),
        (WHITE, pre_tokenizers.Split(Regex(r"\s"), "contiguous")),
        (LETTER, pre_tokenizers.Split(Regex(r"\p{L}"), "contiguous")),
    ):
        classes[_found_by(splitter)] |= bit
    for character in filter(str.isspace, _CHARACTERS):
        classes[ord(character)] |= PYTHON_WHITE
    classes[ord("\n")] = WHITE | PYTHON_WHITE
    return _pages("classes", classes)


def _found_by(splitter: Any) -> list[int]:
    """The characters that a splitter finds, which puts runs of them into pieces; "-" is none of them."""
    found: list[int] = []
    for start in range(0, len(_CHARACTERS), 1 << 14):
        text = "-" + "".join(_CHARACTERS[start : start + (1 << 14)])
        pieces = splitter.pre_tokenize_str(text)
        found += [ord(c) for piece, _ in pieces[1::2] for c in piece]
    return found


@cache
def normalization_tables(form: str) -> Tables:
    """Decompositions, combining classes and compositions of "NFC", "NFD", "NFKC" or "NFKD"."""
    decomposed = _each(normalizers.NFKD() if "K" in form else normalizers.NFD(), _CHARACTERS)
    changed = {
        c: text
        for c, text in zip(_CHARACTERS, decomposed, strict=True)
        if text != c and ord(c) not in _HANGUL
    }
    texts = sorted({*changed.values()})
    number = {text: i for i, text in enumerate(texts, 1)}
    decomposition = np.zeros(N_CHARACTERS, np.uint16)
    for c, text in changed.items():
        decomposition[ord(c)] = number[text]
    return {
        **_pages("decomposition", decomposition),
        **_pages("combining", _combining_classes()),
        "decomposition.ends": as_rows([0, *accumulate(map(len, texts))], "<u4"),
        "decomposition.characters": as_rows([ord(c) for text in texts for c in text], "<u4"),
        "compositions": as_rows(_compositions(), "<u4", 3),
    }


def _each(normalizer: Any, texts: Sequence[str]) -> list[str]:
    """Each of the texts normalized; line breaks keep them apart, and are in none of them."""
    found: list[str] = []
    for start in range(0, len(texts), 1 << 14):
        found += normalizer.normalize_str("\n".join(texts[start : start + (1 << 14)])).split("\n")
    return found


@cache
def _compositions() -> npt.NDArray[np.uint32]:
    """Ascending [n, 3]: first, second, and what they compose to."""
    compose = normalizers.NFC().normalize_str
    triples = []
    for c, parts in zip(_CHARACTERS, _each(normalizers.NFD(), _CHARACTERS), strict=True):
        if len(parts) > 1 and ord(c) not in _HANGUL and compose(c) == c:
            first = compose(parts[:-1])
            if len(first) != 1 or compose(first + parts[-1]) != c:
                raise AssertionError(f"U+{ord(c):04X} is not composed of two characters")
            triples.append((ord(first), ord(parts[-1]), ord(c)))
    return np.array(sorted(triples), np.uint32)


@cache
def _combining_classes() -> npt.NDArray[np.uint8]:
    """0, or the place of the class among all of them: only their order matters.

    It shows in what the library moves: a mark moves before those of higher classes.
    """
    nfd = normalizers.NFD()
    moves = [
        c
        for c, alone, before, behind in zip(
            _CHARACTERS,
            _each(nfd, _CHARACTERS),
            _each(nfd, [_IOTA + c for c in _CHARACTERS]),
            _each(nfd, [c + _OVERLAY for c in _CHARACTERS]),
            strict=True,
        )
        if alone == c and (before != _IOTA + c or behind != c + _OVERLAY)
    ]
    by_class = {unicodedata.combining(c): c for c in reversed(moves) if unicodedata.combining(c)}
    marks = [by_class[i] for i in sorted(by_class)]
    if any(nfd.normalize_str(b + a) != a + b for a, b in pairwise(marks)):
        raise AssertionError("the tokenizers library orders combining characters otherwise")
    classes = np.zeros(N_CHARACTERS, np.uint8)
    for c in moves:
        classes[ord(c)] = 1 + sum(nfd.normalize_str(c + mark) != c + mark for mark in marks)
    return classes
