"""Documents longer than a model reads at once, as pure functions: text in, the sentences of its summary out.

One pass up to 1024 tokens. Beyond, the document is cut into overlapping chunks at its best borders, and
each chunk is summarized. While the summaries together are too long they are cut and summarized again, twice
at most, because every level adds its own mistakes. Sentences that say almost what an earlier one says are
dropped after each level, and of the others those are kept that their chunks support best. Each one knows
the sentence of the document that supports it.

Chunks and sentences are places in the document, not copies; work and memory are in proportion to it.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple, TypeAlias

from edge_s2s.passages import best_passages

CountTokens: TypeAlias = Callable[[str], int]
SummarizeAll: TypeAlias = Callable[[Sequence[str]], Sequence[str]]

ONE_PASS_TOKENS = 1024
CHUNK_TOKENS = 480
OVERLAP_TOKENS = 48
JOINED_TOKENS = 512  # summaries are summarized again while they have more
MAX_LEVELS = 2
NEAR_DUPLICATE = 0.6  # ROUGE-L above which two sentences say the same
NEAR = 200  # sentences before one that are compared with it; what says exactly the same is found anywhere
FOCUS_CHUNKS = 4  # that are read where a question chooses
_CHARACTERS = 16  # for each token of a chunk, of a sentence that is tokenized at once

_WORD, _SENTENCE, _TURN, _PARAGRAPH, _HEADING = range(5)  # borders, the better ones to cut at last

_HEADING_LINE = re.compile(r"[ \t]*#{1,6}[ \t]+\S")
_TURN_LINE = re.compile(  # "Anna: ...", "#Person1#: ...", "[12:05] Dr. Lee: ...", "* ...", "3. ..."
    r"[ \t]*(?:(?:[\[(]?\d{1,2}:\d\d(?::\d\d)?[\])]?[ \t]+)?"
    r"[^\s:\d][^\s:]{0,29}(?:[ ][^\s:]{1,30}){0,2}:(?=\s)|(?:[-*+•]|\d{1,3}[.)])[ \t])"
)
# Possessive, and only where a run of marks begins: no mark is looked at twice, however long the run.
_SENTENCE_END = re.compile(
    r"(?:(?<![.!?…])[.!?…]++[\"'”’)\]]*+(?=\s)|[。！？]++[」』”’）]*+)\s*+"  # noqa: RUF001  # full-width on purpose
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|Mt|vs|e\.g|i\.e|cf|Fig|Gen|Col|Lt|Rev|[A-HJ-Z])\.$"
)
_LONGEST_ABBREVIATION = 8
_BREAKS = "\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029"  # as str.splitlines has them
_LINE = re.compile(rf"[^{_BREAKS}]*+(?:\r\n|[{_BREAKS}]|\Z)")
_WORDS = re.compile(r"\w+")


class Span(NamedTuple):
    """Characters of a text, from `start` to before `end`."""

    start: int
    end: int

    def of(self, text: str) -> str:
        """The characters."""
        return text[self.start : self.end]


class Sentence(NamedTuple):
    """A sentence of a summary, and the chunks `first` to `last` that it was made of."""

    text: str
    first: int
    last: int


class Support(NamedTuple):
    """A sentence of a summary, and the place in the document that supports it best."""

    text: str
    place: Span


@dataclass(frozen=True)
class Summary:
    """What a long document became: `sentences` in its order."""

    sentences: tuple[Support, ...]
    n_chunks: int
    """That were read"""
    n_levels: int
    """How often summaries were summarized again"""


def summarize_document(
    document: str,
    summarize: SummarizeAll,
    count_tokens: CountTokens,
    *,
    target_tokens: int,
    chunk_tokens: int = CHUNK_TOKENS,
    overlap_tokens: int = OVERLAP_TOKENS,
    focus: str | None = None,
) -> Summary:
    """The rule for a document that is too long for one pass.

    `summarize` gets chunks and returns the summary of each. The result has at most `target_tokens` tokens, or
    one sentence. With a `focus`, words or a question, only the chunks are read that have most of it.
    """

    def split(text: str) -> list[Span]:
        return split_document(text, count_tokens, chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens)

    def summaries(text: str, spans: Sequence[Span]) -> Sequence[str]:
        return summarize([span.of(text) for span in spans])

    chunks = split(document)
    if focus is not None:
        chunks = [
            chunks[i] for i in best_passages(focus, [chunk.of(document) for chunk in chunks], FOCUS_CHUNKS)
        ]
    sentences = _sentences_of(summaries(document, chunks), [(i, i) for i in range(len(chunks))])
    n_levels = 0
    while n_levels < MAX_LEVELS and count_tokens(joined := _joined(sentences)) > JOINED_TOKENS:
        parts = split(joined)
        shorter = _sentences_of(summaries(joined, parts), _chunks_of(parts, sentences))
        if not shorter:
            break  # no time was left
        sentences = shorter
        n_levels += 1
    kept = keep_best_supported(sentences, document, chunks, count_tokens, target_tokens=target_tokens)
    supports = [
        Support(text, best_place(text, document, Span(chunks[first].start, chunks[last].end)))
        for text, first, last in kept
    ]
    return Summary(tuple(supports), len(chunks), n_levels)


def _joined(sentences: Sequence[Sentence]) -> str:
    return " ".join(sentence.text for sentence in sentences)


def _chunks_of(parts: Sequence[Span], sentences: Sequence[Sentence]) -> list[tuple[int, int]]:
    """The first and the last chunk that each part of joined sentences comes from."""
    starts = [*accumulate((len(sentence.text) + 1 for sentence in sentences), initial=0)][:-1]
    chunks = []
    for start, end in parts:
        inside = sentences[bisect_right(starts, start) - 1 : bisect_right(starts, end - 1)]
        chunks.append((min(s.first for s in inside), max(s.last for s in inside)))
    return chunks


def _sentences_of(summaries: Iterable[str], chunks: Iterable[tuple[int, int]]) -> list[Sentence]:
    sentences = [
        Sentence(text, first, last)
        for summary, (first, last) in zip(summaries, chunks, strict=True)
        for text in map(str.strip, split_sentences(summary))
        if text
    ]
    return drop_near_duplicates(sentences)


# ------------------------------------------------- cutting -------------------------------------------------


class _Unit(NamedTuple):
    """What is never cut: a turn, a sentence, a heading, each with the blanks that follow it."""

    start: int
    end: int
    n_tokens: int
    border: int
    """before it"""


def split_document(
    document: str,
    count_tokens: CountTokens,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
    overlap_tokens: int = OVERLAP_TOKENS,
) -> list[Span]:
    """Chunks of at most `chunk_tokens` tokens which together hold all of the document.

    A chunk ends at the best border of its second half; the next one starts with as many of the units before
    that border as fit into `overlap_tokens`. Only a sentence longer than a chunk is cut between words.
    """
    more = _units(document, count_tokens, chunk_tokens)
    units: list[_Unit] = []  # those of the next chunk, and one behind it
    chunks: list[Span] = []
    covered = 0  # units that are in the chunk before, too
    while True:
        _read_on(more, units, covered, chunk_tokens)
        if covered == len(units):
            return chunks
        if not document[units[covered].start : units[covered].end].strip():  # nothing new
            covered += 1
            continue
        end = _best_end(units, covered, chunk_tokens)
        start, end = _fitting(document, units, covered, end, count_tokens, chunk_tokens)
        chunks.append(_trimmed(document, units[start].start, units[end - 1].end))
        start = end
        if end < len(units):
            room = min(overlap_tokens, chunk_tokens - units[end].n_tokens)
            start = _overlap_start(document, units, covered, end, count_tokens, room)
        del units[:start]
        covered = end - start


def _read_on(more: Iterator[_Unit], units: list[_Unit], covered: int, chunk_tokens: int) -> None:
    """Reads units until what is new has more tokens than a chunk, or there are no more."""
    n_tokens = sum(unit.n_tokens for unit in units[covered:])
    while n_tokens <= chunk_tokens and (unit := next(more, None)):
        units.append(unit)
        n_tokens += unit.n_tokens


def _best_end(units: Sequence[_Unit], covered: int, chunk_tokens: int) -> int:
    """Where to end a chunk: as late as possible if all fits, else at the last of the best borders."""
    n_tokens = sum(unit.n_tokens for unit in units[:covered])
    fitting: list[tuple[int, int]] = []  # end, tokens up to it
    for end, unit in enumerate(units[covered:], covered + 1):
        n_tokens += unit.n_tokens
        if n_tokens > chunk_tokens and fitting:
            break
        fitting.append((end, n_tokens))
    last, full = fitting[-1]
    if last == len(units):
        return last
    return max((units[end].border, end) for end, n_tokens in fitting if n_tokens >= full / 2)[1]


def _fitting(
    document: str,
    units: Sequence[_Unit],
    covered: int,
    end: int,
    count_tokens: CountTokens,
    chunk_tokens: int,
) -> tuple[int, int]:
    """First and last unit of a chunk that fits: where units meet there may be more tokens than in each."""
    start = 0
    while (
        n := count_tokens(_trimmed(document, units[start].start, units[end - 1].end).of(document))
    ) > chunk_tokens:
        if end - covered > 1:
            end = max(covered + 1, min(end - 1, start + (end - start) * chunk_tokens // n))
        elif start < covered:
            start += (covered - start + 1) // 2
        else:
            break
    return start, end


def _overlap_start(
    document: str, units: Sequence[_Unit], first: int, end: int, count_tokens: CountTokens, max_tokens: int
) -> int:
    """The earliest of the best borders at most `max_tokens` before `end`; `end` if there is none."""
    starts = []
    n_tokens = 0
    for start in range(end - 1, first - 1, -1):
        n_tokens += units[start].n_tokens
        if n_tokens > max_tokens:
            break
        starts.append(start)
    while starts:
        best = max(starts, key=lambda start: (units[start].border, -start))
        if count_tokens(_trimmed(document, units[best].start, units[end - 1].end).of(document)) <= max_tokens:
            return best
        starts = [start for start in starts if start > best]
    return end


def _trimmed(text: str, start: int, end: int) -> Span:
    """Without blanks at both ends."""
    part = text[start:end]
    return Span(start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip()))


def _units(document: str, count_tokens: CountTokens, max_tokens: int) -> Iterator[_Unit]:
    """The document cut at every border; joined, the units are the document.

    What has no tokens belongs to the unit before, so there are not more units than tokens.
    """
    unit: _Unit | None = None
    for start, end, border in _blocks(document):
        for sentence in _sentence_spans(document, start, end):
            for part, n_tokens in _parts(document, sentence, count_tokens, max_tokens):
                if n_tokens == 0 and unit is not None:
                    unit = unit._replace(end=part.end)
                else:
                    if unit is not None:
                        yield unit
                    unit = _Unit(*part, n_tokens, border)
                border = _WORD
            border = _SENTENCE
    if unit is not None:
        yield unit


def _blocks(document: str) -> Iterator[tuple[int, int, int]]:
    """Start and end of headings, turns and paragraphs, and the border before. A line break alone is none."""
    start, border = 0, _PARAGRAPH
    after_blank = after_heading = False
    for match in _LINE.finditer(document):
        line, end = match.span()
        is_blank = not match[0].strip()
        is_heading = _HEADING_LINE.match(document, line, end) is not None
        is_turn = _TURN_LINE.match(document, line, end) is not None
        if not is_blank and (is_heading or is_turn or after_blank or after_heading):
            if start < line:
                yield start, line, border
            start = line
            if is_heading:
                border = _HEADING
            elif after_heading:
                border = _SENTENCE  # a heading stays with what it heads
            else:
                border = _PARAGRAPH if after_blank else _TURN
        after_blank = is_blank
        after_heading = is_heading or (is_blank and after_heading)
    if start < len(document):
        yield start, len(document), border


def split_sentences(text: str) -> list[str]:
    """Sentences with the blanks after them; joined, they are the text."""
    return [sentence.of(text) for sentence in _sentence_spans(text, 0, len(text))]


def _sentence_spans(text: str, start: int, end: int) -> Iterator[Span]:
    for match in _SENTENCE_END.finditer(text, start, end):
        after = match.end()
        if after < end and text[after].islower() and len(match[0].rstrip()) > 1:
            continue  # `... and so on`, `"Really?" he said`
        mark = match.start() + 1
        if _ABBREVIATION.search(text[max(mark - _LONGEST_ABBREVIATION, start) : mark]):
            continue
        yield Span(start, after)
        start = after
    if start < end:
        yield Span(start, end)


def _parts(
    document: str, sentence: Span, count_tokens: CountTokens, max_tokens: int
) -> Iterator[tuple[Span, int]]:
    """Parts with at most `max_tokens` tokens, and their tokens; cut at blanks if there are any."""
    start, end = sentence
    while end - start > _CHARACTERS * max_tokens:
        cut = _cut(document, start, start + _CHARACTERS * max_tokens)
        yield from _equal_parts(document, Span(start, cut), count_tokens, max_tokens)
        start = cut
    yield from _equal_parts(document, Span(start, end), count_tokens, max_tokens)


def _equal_parts(
    document: str, span: Span, count_tokens: CountTokens, max_tokens: int
) -> Iterator[tuple[Span, int]]:
    """The same, of about equal length."""
    start, end = span
    n_tokens = count_tokens(span.of(document))
    if n_tokens <= max_tokens or end - start == 1:
        yield span, n_tokens
        return
    n_parts = min(math.ceil(n_tokens / max_tokens), end - start)
    cuts = [start]
    for i in range(1, n_parts):
        cuts.append(_cut(document, cuts[-1], start + (end - start) * i // n_parts))
    for part in map(Span._make, pairwise([*cuts, end])):
        if part.start < part.end:
            yield from _equal_parts(document, part, count_tokens, max_tokens)


def _cut(text: str, start: int, end: int) -> int:
    """After the last blank, or else at the end."""
    return next((i for i in range(end, start, -1) if text[i - 1].isspace()), max(start, end))


# ------------------------------------------------- choosing ------------------------------------------------


def drop_near_duplicates(sentences: Sequence[Sentence]) -> list[Sentence]:
    """The sentences without those whose ROUGE-L with one of the NEAR kept before is above 0.6."""
    kept: list[Sentence] = []
    kept_words: list[list[str]] = []
    said: set[tuple[str, ...]] = set()
    for sentence in sentences:
        words = _words(sentence.text)
        if tuple(words) in said:
            continue
        if all(rouge_l(words, earlier) <= NEAR_DUPLICATE for earlier in kept_words[-NEAR:]):
            kept.append(sentence)
            kept_words.append(words)
            said.add(tuple(words))
    return kept


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """F-measure of ROUGE-L (Lin 2004) of two lists of words."""
    return 2 * _lcs(a, b) / (len(a) + len(b)) if a and b else 0.0


def _lcs(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence; an integer holds a row of the table (Hyyrö 2004)."""
    matches: dict[str, int] = {}  # word -> positions in a
    for i, word in enumerate(a):
        matches[word] = matches.get(word, 0) | 1 << i
    all_ones = row = (1 << len(a)) - 1
    for word in b:
        hit = row & matches.get(word, 0)
        row = ((row + hit) | (row - hit)) & all_ones
    return len(a) - row.bit_count()


def keep_best_supported(
    sentences: Sequence[Sentence],
    document: str,
    chunks: Sequence[Span],
    count_tokens: CountTokens,
    *,
    target_tokens: int,
) -> list[Sentence]:
    """The sentences with the best support that fit into `target_tokens` tokens, at least one, in their order.

    A sentence's support is the share of its words and word pairs that one of its chunks has.
    """
    supports = _supports(sentences, document, chunks)
    order = sorted(range(len(sentences)), key=lambda i: (-supports[i], i))
    kept: list[int] = []
    n_tokens = 0
    for i in order:
        its_tokens = count_tokens(sentences[i].text)
        if n_tokens + its_tokens <= target_tokens or not kept:
            kept.append(i)
            n_tokens += its_tokens
    while len(kept) > 1 and count_tokens(_joined([sentences[i] for i in sorted(kept)])) > target_tokens:
        kept.pop()  # where sentences meet there may be more tokens than in each
    return [sentences[i] for i in sorted(kept)]


def _supports(sentences: Sequence[Sentence], document: str, chunks: Sequence[Span]) -> list[float]:
    said = [_words_and_pairs(sentence.text) for sentence in sentences]
    of_chunk: dict[int, list[int]] = {}
    for i, sentence in enumerate(sentences):
        for chunk in range(sentence.first, sentence.last + 1):
            of_chunk.setdefault(chunk, []).append(i)
    supports = [0.0] * len(sentences)
    for chunk, ours in of_chunk.items():
        content = _words_and_pairs(chunks[chunk].of(document))  # one at a time: they are larger than the text
        for i in ours:
            supports[i] = max(supports[i], len(said[i] & content) / max(len(said[i]), 1))
    return supports


def supports_of(text: str, document: str) -> list[Support]:
    """The sentences of a text and what supports each of them in a document."""
    whole = Span(0, len(document))
    sentences = filter(None, map(str.strip, split_sentences(text)))
    return [Support(sentence, best_place(sentence, document, whole)) for sentence in sentences]


def best_place(sentence: str, document: str, within: Span) -> Span:
    """The sentence of a part of a document that shares most words and word pairs, as F-measure, with one."""
    said = _words_and_pairs(sentence)
    best, most = within, -1.0
    for start, end, _ in _blocks(within.of(document)):
        for a, b in _sentence_spans(document, within.start + start, within.start + end):
            theirs = _words_and_pairs(document[a:b])
            shared = 2 * len(said & theirs) / max(len(said) + len(theirs), 1)
            if shared > most and theirs:
                best, most = _trimmed(document, a, b), shared
    return best


def _words(text: str) -> list[str]:
    return _WORDS.findall(text.lower())


def _words_and_pairs(text: str) -> set[str | tuple[str, str]]:
    words = _words(text)
    return {*words, *pairwise(words)}
