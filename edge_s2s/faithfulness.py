"""What an output says that its source does not, and whether it goes round in circles.

    findings = check("Anna pays 30 dollars.", "#Person1#: That is twenty-five, Anna.")
    [claim.text for claim in findings.numbers]   # ["30"]

Numbers and names are compared, not meanings: who did what to whom is not looked at. A source is read
generously, every reading of "one thirty" is there; an output strictly. Time is proportional to the text.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias, TypeVar

Loop: TypeAlias = Literal["row", "phrase", "letters", "vocabulary", "compression"]
T = TypeVar("T")
Reading: TypeAlias = tuple[str, ...]
"""Values that a mention of a number stands for together, such as ("3", "30") for 3:30"""

MAX_PERIOD = 8  # words that come again and again
MAX_PHRASE_REPEATS = 2  # of 4 words within PHRASE_WINDOW words
PHRASE_WINDOW = 50
MIN_VOCABULARY = 0.4  # distinct words of VOCABULARY_WINDOW words, or of all if there are at least 20
VOCABULARY_WINDOW = 50
MAX_COMPRESSION = 2.4  # by zlib, of COMPRESSION_WINDOW bytes
COMPRESSION_WINDOW = 512
MIN_SIMILAR_LENGTH = 6  # of a name that one changed letter does not make another one
MAX_SIMILAR_LOOKUPS = 32  # names of an output that are compared letter by letter; an answer has few


class Claim(NamedTuple):
    """A place in an output."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Findings:
    """What is wrong with an output; nothing, if it is falsy."""

    numbers: tuple[Claim, ...] = ()
    names: tuple[Claim, ...] = ()
    loop: Loop | None = None

    def __bool__(self) -> bool:
        return bool(self.numbers or self.names or self.loop)


def check(output: str, source: str) -> Findings:
    """All findings about one output. For several of one source, make its Evidence once."""
    return Evidence(source).check(output)


class Evidence:
    """The numbers and words of a source, ready for any number of outputs; it never changes."""

    def __init__(self, source: str) -> None:
        tokens = _tokens(source)
        self._numbers = {value for n in _numbers(tokens) for reading in n.readings for value in reading}
        self._numbers |= {value[2:].lstrip("0") for value in self._numbers if len(value) == 4}  # '99 is 1999
        self._words: dict[str, None] = {}
        initials: list[str] = []
        letters = ""  # spelled: "A B C"
        before = ""
        speakers: set[str] = set()
        for token in tokens:
            word = token.folded
            self._words[word] = None
            self._words[_stem(word)] = None
            if not word.isalpha():
                self._numbers.update(_loose_values(word))
                if len(word) == 3 and word.isdecimal() and before.isdecimal():
                    self._numbers.add(_canonical(before + word))  # 20, 000
            elif (values := _LOOSE_WORDS.get(word)) is not None:
                self._numbers.update(values)
            before = word
            initials.append(word[0])
            if len(word) == 1:
                letters += word
            elif letters:
                self._words[letters] = None
                letters = ""
            if token.opens_line and source.startswith(":", token.end):
                speakers.add(word)
        self._numbers.add(str(len(speakers)))  # "the two of them"
        self._words[letters] = None
        self._initials = "".join(initials)

    def check(self, output: str) -> Findings:
        """All findings about an output."""
        tokens = _tokens(output)
        return Findings(self._new_numbers(output, tokens), self._new_names(output, tokens), find_loop(output))

    def new_numbers(self, output: str) -> tuple[Claim, ...]:
        """Numbers of an output that the source does not have."""
        return self._new_numbers(output, _tokens(output))

    def new_names(self, output: str) -> tuple[Claim, ...]:
        """Names of an output that the source does not have."""
        return self._new_names(output, _tokens(output))

    def _new_numbers(self, output: str, tokens: Sequence["_Token"]) -> tuple[Claim, ...]:
        return tuple(
            Claim(output[number.start : number.end], number.start, number.end)
            for number in _numbers(tokens)
            if output[number.start : number.end].lower() not in _WEAK_NUMBERS
            and not _counts_a_list(output, number)
            and not any(self._numbers.issuperset(reading) for reading in number.readings)
        )

    def _new_names(self, output: str, tokens: Sequence["_Token"]) -> tuple[Claim, ...]:
        unknown = [token for token in _names(output, tokens) if not self._has_name(token)]
        similar = {
            word for word in sorted({token.folded for token in unknown})[:MAX_SIMILAR_LOOKUPS]
            if self._has_similar(_stem(word))
        }  # fmt: skip
        return tuple(
            Claim(token.text, token.start, token.end) for token in unknown if token.folded not in similar
        )

    def _has_name(self, token: "_Token") -> bool:
        word = token.folded
        if word in self._words or (stem := _stem(word)) in self._words:
            return True
        is_acronym = len(stem) > 1 and token.text[: len(stem)].isupper()
        return is_acronym and stem in self._initials

    def _has_similar(self, word: str) -> bool:
        """Whether a word of the source differs in one letter at most. Then they begin or end alike."""
        if len(word) < MIN_SIMILAR_LENGTH or not word.isalpha():  # #Person1# is not #Person2#
            return False
        candidates = (*self._by_begin.get(word[:3], ()), *self._by_end.get(word[-3:], ()))
        return any(_differ_in_one_letter(word, other) for other in candidates)

    @cached_property
    def _by_begin(self) -> dict[str, list[str]]:
        return _grouped((word[:3], word) for word in self._words if len(word) >= MIN_SIMILAR_LENGTH - 1)

    @cached_property
    def _by_end(self) -> dict[str, list[str]]:
        return _grouped((word[-3:], word) for word in self._words if len(word) >= MIN_SIMILAR_LENGTH - 1)


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for key, word in pairs:
        groups.setdefault(key, []).append(word)
    return groups


def _differ_in_one_letter(a: str, b: str) -> bool:
    """Whether one letter changed, added or left out at most makes a word of the other."""
    if abs(len(a) - len(b)) > 1:
        return False
    if len(a) > len(b):
        a, b = b, a
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    return a[same + (len(a) == len(b)) :] == b[same + 1 :]


# -------------------------------------------------- tokens -------------------------------------------------

# Possessive: no letter is looked at more than twice.
_TOKEN = re.compile(
    r"#\w++#?+|@\w++"  # a speaker as in #Person1#, a handle
    r"|\d++(?:[.,:/]\d++)*+(?=[^\W\d_]*+(?!\w))"  # a number; 5kg is one and a word, B2B and 4x4 are words
    r"|\w++(?:['’]\w++)*+"  # noqa: RUF001  # both apostrophes are written
)


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    folded: str
    start: int
    end: int
    opens_line: bool


def _tokens(text: str) -> list[_Token]:
    tokens = []
    end = 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        start = match.start()
        opens_line = not end or "\n" in text[end:start]
        end = match.end()
        tokens.append(_Token(token, token.lower().replace("’", "'"), start, end, opens_line))  # noqa: RUF001
    return tokens


def words(text: str) -> list[str]:
    """The words of a text in lower case, as all checks see them."""
    return [match[0].lower() for match in _TOKEN.finditer(text)]


def _stem(word: str) -> str:
    """Without a possessive or plural s."""
    return word.removesuffix("'s").removesuffix("'").removesuffix("s")


# -------------------------------------------------- names --------------------------------------------------

_NO_NAMES = frozenset((
    "i", "i'm", "i'd", "i'll", "i've", "ok", "okay", "am", "pm", "tv", "a", "an", "the", "this", "that", "it",
    "he", "she", "they", "we", "you", "his", "her", "their", "there", "in", "on", "at", "for", "of", "to",
    "with", "and", "but", "or", "as", "is", "not", "no", "if", "when", "what", "how",
))  # fmt: skip
_TITLES = frozenset(("mr", "mrs", "ms", "dr", "prof", "st", "miss", "sir", "madam"))
_ENDS_SENTENCE = frozenset(".!?…:;。！？\n•*|")  # noqa: RUF001  # full-width on purpose


def _names(text: str, tokens: Sequence[_Token]) -> Iterator[_Token]:
    """Speaker tags, handles, words with capitals inside, and capitalised words that begin no sentence.

    Where most words are capitalised, as in a title, a single capital says nothing.
    """
    long_words = [token.text for token in tokens if len(token.text) > 3 and token.text[0].isalpha()]
    is_title = len(long_words) > 3 and 2 * sum(word[0].isupper() for word in long_words) > len(long_words)
    before = None
    for token in tokens:
        word = token.text
        if word[0] in "#@":
            yield token
        elif token.folded not in _NO_NAMES and token.folded not in _TITLES and not word.islower():
            inner = any(map(str.isupper, word[1:]))
            if inner or (word[0].isupper() and not is_title and not _begins_sentence(text, token, before)):
                yield token
        before = token


def _begins_sentence(text: str, token: _Token, before: _Token | None) -> bool:
    if before is None:
        return True
    if before.folded in _TITLES:
        return False
    between = text[before.end : token.start]
    return any(mark in _ENDS_SENTENCE for mark in between) or between.strip(" ") in {'"', "“", "-", "–"}  # noqa: RUF001


# -------------------------------------------------- numbers -----------------------------------------------

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth",
    "nineteenth",
)  # fmt: skip
_SMALL: dict[str, int] = {
    **{word: i for i, word in enumerate(_ONES)},
    **{word: 10 * i for i, word in enumerate(_TENS, 2)},
    **{word: i for i, word in enumerate(_ORDINALS, 1)},
    **{f"{word[:-1]}ieth": 10 * i for i, word in enumerate(_TENS, 2)},
    "oh": 0,
    "twice": 2,
}
_ZEROS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_UNIT_ZEROS = {"k": 3, "m": 6, "mn": 6, "bn": 9, "b": 9}
_OTHER_UNITS = ("m", "b")  # metres, bytes
_DOZEN = 12
# Too weak in an output: "one of them", "at first", "a second".
_WEAK_NUMBERS = frozenset(("one", "first", "second"))
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
    "november", "december",
)  # fmt: skip
_LOOSE_WORDS: dict[str, tuple[str, ...]] = {  # what else a source may mean by a word
    **{word: (str(i),) for i, word in enumerate(_MONTHS, 1)},
    **{word[:3]: (str(i),) for i, word in enumerate(_MONTHS, 1)},
    "half": ("0.5", "1/2", "30", "50"), "quarter": ("0.25", "15", "25", "45"),
    "once": ("1",), "single": ("1",),
    "both": ("2",), "couple": ("2",), "pair": ("2",), "twin": ("2",), "twins": ("2",), "double": ("2",),
    "triple": ("3",), "dozen": ("12",), "noon": ("12",), "midday": ("12",), "midnight": ("12",),
    "a": ("1",), "an": ("1",), "decade": ("10",), "century": ("100",),
}  # fmt: skip
_DIGITS = re.compile(r"\d+")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class _Number:
    start: int
    end: int
    readings: tuple[Reading, ...]


def _numbers(tokens: Sequence[_Token]) -> list[_Number]:
    """Mentions of numbers, in digits and in words."""
    found = []
    i = 0
    while i < len(tokens):
        word = tokens[i].folded
        if word[0].isdecimal() and word[-1].isdecimal():
            end, readings = _in_digits(tokens, i)
        elif (word in _SMALL and word != "oh") or word in _ZEROS or word == "dozen":
            end, readings = _in_words(tokens, i)
        else:
            i += 1
            continue
        found.append(_Number(tokens[i].start, tokens[end - 1].end, readings))
        i = end
    return found


def _counts_a_list(text: str, number: _Number) -> bool:
    """Whether it is the mark of an item: the 2 of "1. Rest. 2. Water"."""
    before = text[max(number.start - 3, 0) : number.start].rstrip(" ")
    return text[number.end : number.end + 2] in (". ", ") ") and (not before or before[-1] in ".\n")


def _in_digits(tokens: Sequence[_Token], i: int) -> tuple[int, tuple[Reading, ...]]:
    """The readings of 1,200 or 3:30 or 1.2 million, and the token behind it."""
    readings = _of_digits(tokens[i].text)
    unit = tokens[i + 1].folded if _follows(tokens, i + 1) else ""
    is_glued = bool(unit) and tokens[i + 1].start == tokens[i].end
    if unit in _ZEROS:
        return i + 2, tuple(tuple(_scaled(value, _ZEROS[unit]) for value in reading) for reading in readings)
    if is_glued and unit in _UNIT_ZEROS:
        scaled = tuple((_scaled(reading[0], _UNIT_ZEROS[unit]),) for reading in readings)
        return i + 2, (scaled + readings if unit in _OTHER_UNITS else scaled)
    return i + 1, readings


def _of_digits(text: str) -> tuple[Reading, ...]:
    if _GROUPED.fullmatch(text):
        return ((_canonical(text.replace(",", "")),),)
    parts = tuple(_canonical(part) for part in _DIGITS.findall(text))
    if len(parts) == 1:
        return (parts,)
    if text.count(".") + text.count(",") == 1 == len(parts) - 1:
        decimal = _canonical(text.replace(",", "."))
        if "," in text or len(text.partition(".")[2]) == 2:  # 3.30 is 3:30, or 3 dollars 30
            return ((decimal,), parts)
        return ((decimal,), (_canonical(text.replace(".", "")),))
    return ((text,), tuple(part for part in parts if part != "0"))


def _in_words(tokens: Sequence[_Token], i: int) -> tuple[int, tuple[Reading, ...]]:
    """The readings of twenty-six, one hundred and five, nineteen ninety-nine, and the token behind it.

    Numbers without a word between may be one: one twenty is 1 and 20, or 120.
    """
    values = []
    while True:
        i, value = _one_number(tokens, i)
        values.append(value)
        if not (_follows(tokens, i) and (tokens[i].folded in _SMALL or tokens[i].folded in _ZEROS)):
            break
    return i, ((tuple(values),) if len(values) == 1 else (tuple(values), (_canonical("".join(values)),)))


def _one_number(tokens: Sequence[_Token], start: int) -> tuple[int, str]:
    """The longest number in words from a token on, and the token behind it."""
    total = hundreds = rest = 0
    scale = 99  # zeros of the last scale word; the next one is smaller
    is_open = True  # what may follow adds to the number
    i = start
    while i < len(tokens) and is_open and (i == start or _follows(tokens, i)):
        word = tokens[i].folded
        if word in _SMALL:
            value = _SMALL[word]
            tens_and_one = rest >= 20 and rest % 10 == 0 and 0 < value < 10
            if i > start and not tens_and_one and (rest or value == 0 or tokens[i - 1].folded in _SMALL):
                break
            rest += value
            is_open = word not in _ORDINALS
        elif word == "hundred" and not hundreds and (rest or i == start):
            hundreds, rest = max(rest, 1), 0
        elif word in _ZEROS and word != "hundred" and _ZEROS[word] < scale:
            scale = _ZEROS[word]
            total += max(100 * hundreds + rest, 1) * 10**scale
            hundreds = rest = 0
        elif word == "dozen" and not hundreds:
            rest, is_open = max(rest, 1) * _DOZEN, False
        elif not (
            word == "and"
            and tokens[i - 1].folded in _ZEROS
            and _follows(tokens, i + 1)
            and tokens[i + 1].folded in _SMALL
        ):
            break
        i += 1
    number = str(total + 100 * hundreds + rest)
    if _follows(tokens, i) and tokens[i].folded == "point":
        digits: list[str] = []
        while (
            _follows(tokens, i + 1 + len(digits)) and _SMALL.get(tokens[i + 1 + len(digits)].folded, 10) < 10
        ):
            digits.append(str(_SMALL[tokens[i + 1 + len(digits)].folded]))
        if digits:
            return i + 1 + len(digits), _canonical(f"{number}.{''.join(digits)}")
    return i, number


def _follows(tokens: Sequence[_Token], i: int) -> bool:
    """Whether there is a token i, one blank or hyphen behind the one before at most."""
    return i < len(tokens) and tokens[i].start - tokens[i - 1].end <= 1


def _loose_values(word: str) -> Iterator[str]:
    """All numbers within a word of a source: 2 and 3 of H2O3."""
    yield from map(_canonical, _DIGITS.findall(word))


def _canonical(number: str) -> str:
    """Without zeros that say nothing. Text, because a hostile number may have a million digits."""
    whole, _, fraction = number.partition(".")
    fraction = fraction.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")


def _scaled(number: str, zeros: int) -> str:
    """The number times 10 ** zeros."""
    whole, _, fraction = number.partition(".")
    fraction = fraction.ljust(zeros, "0")
    return _canonical(f"{whole}{fraction[:zeros]}.{fraction[zeros:]}")


# -------------------------------------------------- loops --------------------------------------------------

_STUTTER = re.compile(r"([^\d\n]{1,8}?)\1{5,}")
_RULERS = "-=_.*~ \t"  # what lines are drawn with


def find_loop(text: str) -> Loop | None:
    """How a text goes round in circles, if it does.

    row: a word 4 times in a row, or up to 8 words 3 times. phrase: 4 words for the third time within 50.
    letters: up to 8 characters 6 times in a row. vocabulary: fewer than 40 % of 50 words, or of all 20 or
    more, are distinct. compression: zlib makes 512 bytes more than 2.4 times shorter.
    """
    said = words(text)
    if any(_repeats_in_a_row(said, n, 3 if n > 1 else 4) for n in range(1, MAX_PERIOD + 1)):
        return "row"
    if _repeats_phrase(said):
        return "phrase"
    if any(match[1].strip(_RULERS) for match in _STUTTER.finditer(text)):
        return "letters"
    if any(len({*window}) < MIN_VOCABULARY * len(window) for window in _windows(said, VOCABULARY_WINDOW, 20)):
        return "vocabulary"
    data = text.encode(errors="replace")
    if any(
        len(w) > MAX_COMPRESSION * len(zlib.compress(bytes(w))) for w in _windows(data, COMPRESSION_WINDOW, 1)
    ):
        return "compression"
    return None


def _repeats_in_a_row(words: Sequence[str], period: int, times: int) -> bool:
    """Whether `period` words come `times` times in a row; digits read aloud may."""
    run = 0
    for word, before in zip(words[period:], words, strict=False):
        run = run + 1 if word == before and not word.isdecimal() else 0
        if run == period * (times - 1):
            return True
    return False


def _repeats_phrase(words: Sequence[str]) -> bool:
    places: dict[tuple[str, ...], list[int]] = {}
    for i, phrase in enumerate(zip(words, words[1:], words[2:], words[3:], strict=False)):
        seen = places.setdefault(phrase, [])
        seen.append(i)
        if len(seen) > MAX_PHRASE_REPEATS and i - seen[-1 - MAX_PHRASE_REPEATS] < PHRASE_WINDOW:
            return True
    return False


def _windows(items: Sequence[T], size: int, smallest: int) -> Iterator[Sequence[T]]:
    """Windows that overlap by half, the last one at the end; all of it if it is no longer than one."""
    if len(items) >= smallest:
        last = max(len(items) - size, 0)
        for start in (*range(0, last, max(size // 2, 1)), last):
            yield items[start : start + size]
