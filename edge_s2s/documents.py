"""Documents longer than a model reads at once, as pure functions: text in, the sentences of its summary out.

One pass up to 1024 tokens. Beyond, the document is cut into overlapping chunks at its best borders, and
each chunk is summarized. While the summaries together are too long they are cut and summarized again, twice
at most, because every level adds its own mistakes. Sentences that say almost what an earlier one says are
dropped after each level, and of the others those are kept that the document supports best.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

CountTokens: TypeAlias = Callable[[str], int]
SummarizeAll: TypeAlias = Callable[[Sequence[str]], Sequence[str]]

ONE_PASS_TOKENS = 1024
CHUNK_TOKENS = 480
OVERLAP_TOKENS = 48
JOINED_TOKENS = 512  # summaries are summarized again while they have more
MAX_LEVELS = 2
NEAR_DUPLICATE = 0.6  # ROUGE-L above which two sentences say the same

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
_WORDS = re.compile(r"\w+")


@dataclass(frozen=True)
class Summary:
    """What a long document became: `sentences` in its order."""

    sentences: tuple[str, ...]
    n_chunks: int
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
) -> Summary:
    """The rule for a document that is too long for one pass.

    `summarize` gets chunks and returns the summary of each. The result has at most `target_tokens` tokens, or
    one sentence.
    """
    chunks = split_document(document, count_tokens, chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens)
    sentences = _sentences_of(summarize(chunks))
    n_levels = 0
    while n_levels < MAX_LEVELS and count_tokens(joined := " ".join(sentences)) > JOINED_TOKENS:
        parts = split_document(joined, count_tokens, chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens)
        if not (shorter := _sentences_of(summarize(parts))):
            break  # no time was left
        sentences = shorter
        n_levels += 1
    kept = keep_best_supported(sentences, chunks, count_tokens, target_tokens=target_tokens)
    return Summary(tuple(kept), len(chunks), n_levels)


def _sentences_of(summaries: Iterable[str]) -> list[str]:
    sentences = [sentence.strip() for summary in summaries for sentence in split_sentences(summary)]
    return drop_near_duplicates([sentence for sentence in sentences if sentence])


# ------------------------------------------------- cutting -------------------------------------------------


@dataclass(frozen=True)
class _Unit:
    """What is never cut: a turn, a sentence, a heading, each with the blanks that follow it."""

    text: str
    n_tokens: int
    border: int
    """before it"""


def split_document(
    document: str,
    count_tokens: CountTokens,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
    overlap_tokens: int = OVERLAP_TOKENS,
) -> list[str]:
    """Chunks of at most `chunk_tokens` tokens which together hold all of the document.

    A chunk ends at the best border of its second half; the next one starts with as many of the units before
    that border as fit into `overlap_tokens`. Only a sentence longer than a chunk is cut between words.
    """
    units = _units(document.strip(), count_tokens, chunk_tokens)
    chunks: list[str] = []
    start = covered = 0  # units of this chunk: start..end; those before `covered` are in an earlier one
    while covered < len(units):
        if units[covered].text.isspace():  # nothing new
            covered += 1
            continue
        end = _best_end(units, start, covered, chunk_tokens)
        # Where units meet there may be more tokens than in each of them alone.
        while count_tokens(chunk := _join(units[start:end])) > chunk_tokens:
            if end - covered > 1:
                end -= 1
            elif start < covered:
                start += 1
            else:
                break
        chunks.append(chunk)
        if end < len(units):
            room = min(overlap_tokens, chunk_tokens - units[end].n_tokens)
            start = _overlap_start(units, covered, end, count_tokens, room)
        covered = end
    return chunks


def _best_end(units: Sequence[_Unit], start: int, covered: int, chunk_tokens: int) -> int:
    """Where to end a chunk: as late as possible if all fits, else at the last of the best borders."""
    n_tokens = sum(unit.n_tokens for unit in units[start:covered])
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


def _overlap_start(
    units: Sequence[_Unit], first: int, end: int, count_tokens: CountTokens, max_tokens: int
) -> int:
    """The earliest of the best borders at most `max_tokens` before `end`; `end` if there is none."""
    starts = []
    for start in range(end - 1, first - 1, -1):
        if count_tokens(_join(units[start:end])) > max_tokens:
            break
        starts.append(start)
    return max(starts, key=lambda start: (units[start].border, -start), default=end)


def _join(units: Sequence[_Unit]) -> str:
    return "".join(unit.text for unit in units).strip()


def _units(document: str, count_tokens: CountTokens, max_tokens: int) -> list[_Unit]:
    """The document cut at every border; joined, the units are the document.

    What has no tokens belongs to the unit before, so there are not more units than tokens.
    """
    units: list[tuple[list[str], int, int]] = []
    for block, border in _blocks(document):
        for sentence in split_sentences(block):
            for part, n_tokens in _split_words(sentence, count_tokens, max_tokens):
                if n_tokens == 0 and units:
                    units[-1][0].append(part)
                else:
                    units.append(([part], n_tokens, border))
                border = _WORD
            border = _SENTENCE
    return [_Unit("".join(parts), n_tokens, border) for parts, n_tokens, border in units]


def _blocks(document: str) -> list[tuple[str, int]]:
    """Headings, turns and paragraphs, each with the border before it. A line break alone is none."""
    blocks: list[tuple[list[str], int]] = [([], _PARAGRAPH)]
    after_blank = after_heading = False
    for line in document.splitlines(keepends=True):
        is_blank = not line.strip()
        is_heading = _HEADING_LINE.match(line) is not None
        is_turn = _TURN_LINE.match(line) is not None
        if not is_blank and (is_heading or is_turn or after_blank or after_heading):
            if is_heading:
                border = _HEADING
            elif after_heading:
                border = _SENTENCE  # a heading stays with what it heads
            else:
                border = _PARAGRAPH if after_blank else _TURN
            blocks.append(([], border))
        blocks[-1][0].append(line)
        after_blank = is_blank
        after_heading = is_heading or (is_blank and after_heading)
    return [("".join(lines), border) for lines, border in blocks if lines]


def split_sentences(text: str) -> list[str]:
    """Sentences with the blanks after them; joined, they are the text."""
    sentences = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if text[match.end() : match.end() + 1].islower() and len(match[0].rstrip()) > 1:
            continue  # `... and so on`, `"Really?" he said`
        mark = match.start() + 1
        if _ABBREVIATION.search(text[max(mark - _LONGEST_ABBREVIATION, start) : mark]):
            continue
        sentences.append(text[start : match.end()])
        start = match.end()
    return [*sentences, text[start:]] if start < len(text) else sentences


def _split_words(text: str, count_tokens: CountTokens, max_tokens: int) -> list[tuple[str, int]]:
    """Parts of about equal length with at most `max_tokens` tokens, cut at blanks if there are any."""
    n_tokens = count_tokens(text)
    if n_tokens <= max_tokens or len(text) == 1:
        return [(text, n_tokens)]
    n_parts = min(math.ceil(n_tokens / max_tokens), len(text))
    cuts = [0]
    for i in range(1, n_parts):
        cut = len(text) * i // n_parts
        blank = next((j for j in range(cut, cuts[-1], -1) if text[j - 1].isspace()), cut)
        cuts.append(max(blank, cuts[-1]))
    parts = [text[a:b] for a, b in pairwise([*cuts, len(text)]) if a < b]
    return [unit for part in parts for unit in _split_words(part, count_tokens, max_tokens)]


# ------------------------------------------------- choosing ------------------------------------------------


def drop_near_duplicates(sentences: Sequence[str]) -> list[str]:
    """The sentences without those whose ROUGE-L with an earlier one is above 0.6."""
    kept: list[str] = []
    kept_words: list[list[str]] = []
    for sentence in sentences:
        words = _words(sentence)
        if all(rouge_l(words, earlier) <= NEAR_DUPLICATE for earlier in kept_words):
            kept.append(sentence)
            kept_words.append(words)
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
    sentences: Sequence[str], chunks: Sequence[str], count_tokens: CountTokens, *, target_tokens: int
) -> list[str]:
    """The sentences with the best support that fit into `target_tokens` tokens, at least one, in their order.

    A sentence's support is the share of its words and word pairs that some chunk has.
    """
    contents = [_words_and_pairs(chunk) for chunk in chunks]

    def support(sentence: str) -> float:
        said = _words_and_pairs(sentence)
        return max((len(said & content) for content in contents), default=0) / max(len(said), 1)

    supports = [support(sentence) for sentence in sentences]
    kept: list[int] = []
    for i in sorted(range(len(sentences)), key=lambda i: (-supports[i], i)):
        together = " ".join(sentences[j] for j in sorted([*kept, i]))
        if not kept or count_tokens(together) <= target_tokens:
            kept.append(i)
    return [sentences[i] for i in sorted(kept)]


def _words(text: str) -> list[str]:
    return _WORDS.findall(text.lower())


def _words_and_pairs(text: str) -> set[str | tuple[str, str]]:
    words = _words(text)
    return {*words, *pairwise(words)}
