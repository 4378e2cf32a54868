"""The rule for long documents: how they are cut, what is dropped, what is kept."""

import re
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from edge_s2s.documents import (
    MAX_LEVELS,
    drop_near_duplicates,
    keep_best_supported,
    rouge_l,
    split_document,
    split_sentences,
    summarize_document,
)


def count_words(text: str) -> int:
    return len(text.split())


def count_pieces(text: str) -> int:
    """A tokenizer in which joining texts makes more tokens than they have alone, as newlines may."""
    return len(re.findall(r"\w{1,4}|[^\w\s]|\n(?=.)", text))


COUNTERS = {"words": count_words, "pieces": count_pieces, "characters": len}
SEPARATORS = (
    " ", " ", " ", ", ", ". ", "? ", '." ', "\n", ".\n", "\n\n", "\nAnna: ", "\n#Person1#: ", "\n- ",
    "\n# Part\n", "\n\n## 2\n\n", "。", "\r\n", "\t", " Mr. ", "...",
)  # fmt: skip


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Numbered words, each one unique, between all kinds of borders."""
    separators = draw(st.lists(st.sampled_from(SEPARATORS), min_size=1, max_size=300))
    return "".join(f"{separator}w{i}" for i, separator in enumerate(separators)).strip()


@pytest.mark.parametrize("name", COUNTERS)
@settings(max_examples=150, deadline=None)
@given(document=documents(), chunk_tokens=st.integers(8, 60), overlap_tokens=st.integers(0, 8))
def test_chunks_fit_hold_all_words_in_order_and_are_parts_of_the_document(
    name: str, document: str, chunk_tokens: int, overlap_tokens: int
):
    count = COUNTERS[name]
    chunks = split_document(document, count, chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens)
    assert all(count(chunk) <= chunk_tokens for chunk in chunks)
    covered = 0  # characters of the document before are in some chunk, blanks apart
    for chunk in chunks:
        blanks = len(document[covered:]) - len(document[covered:].lstrip())
        start = document.rfind(chunk, 0, covered + blanks + len(chunk))
        assert start >= 0, "a chunk that is no part of the document, or follows a gap"
        assert start + len(chunk) > covered, "a chunk with nothing new"
        assert count(document[start:covered]) <= overlap_tokens
        covered = start + len(chunk)
    assert covered == len(document)
    again = split_document(document, count, chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens)
    assert again == chunks


def test_tokens_that_appear_where_units_meet_count_for_the_overlap():
    chunks = split_document("w0\n# Part\nw1\nAnna: w2", count_pieces, chunk_tokens=8, overlap_tokens=3)
    assert chunks == ["w0\n# Part\nw1", "w1\nAnna: w2"]


def test_a_dialogue_is_cut_between_turns_and_overlaps_by_whole_turns():
    turns = [f"Speaker {i % 2}: I say number {i}. And more." for i in range(40)]  # 8 words each
    chunks = split_document("\n".join(turns), count_words, chunk_tokens=50, overlap_tokens=20)
    assert all(chunk.splitlines()[0].startswith("Speaker") for chunk in chunks)
    assert [chunk.splitlines()[0] for chunk in chunks[1:3]] == [turns[4], turns[8]]
    assert chunks[0].splitlines() == turns[:6]


def test_work_grows_no_faster_than_the_document_where_most_of_it_has_no_tokens():
    """Tokenizers drop control characters: a document can have thousands of paragraphs between words."""
    n_counted = 0

    def count(text: str) -> int:
        nonlocal n_counted
        n_counted += len(text)
        return len(text.replace("\x00", "").split())

    document = "word " * 600 + "\n\n" + "\x00\n\n" * 4000 + "word " * 600
    chunks = split_document(document, count)
    assert all(count_words(chunk.replace("\x00", "")) <= 480 for chunk in chunks)
    assert "".join(chunks).count("\x00") >= 4000
    assert n_counted < 10 * len(document)


def test_a_heading_is_the_best_border_and_stays_with_its_text():
    section = "# Heading\n\nOne two three. Four five six.\n\nSeven eight nine."  # 11 words
    chunks = split_document("\n\n".join([section] * 6), count_words, chunk_tokens=30, overlap_tokens=0)
    assert chunks == ["\n\n".join([section] * 2)] * 3


def test_line_breaks_within_a_paragraph_are_no_borders():
    document = "\n".join(f"line {i} goes\non and on." for i in range(50))
    for chunk in split_document(document, count_words, chunk_tokens=40, overlap_tokens=0):
        assert chunk.startswith("line")
        assert chunk.endswith("on.")


def test_a_sentence_longer_than_a_chunk_is_cut_between_words_and_a_longer_word_within():
    words = " ".join(f"w{i}" for i in range(1000))
    chunks = split_document(words, count_words, chunk_tokens=100, overlap_tokens=0)
    assert " ".join(chunks) == words
    assert "".join(split_document("x" * 1000, len, chunk_tokens=99, overlap_tokens=9)) == "x" * 1000


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("One", ["One"]),
        ("One. Two! Three?", ["One. ", "Two! ", "Three?"]),
        ('"Really?" he said. "Yes." It was.', ['"Really?" he said. ', '"Yes." ', "It was."]),
        ("Mr. Smith met Dr. Lee. So do I. No.", ["Mr. Smith met Dr. Lee. ", "So do I. ", "No."]),
        ("Ask Fig. 3, i.e. that one.", ["Ask Fig. 3, i.e. that one."]),
        ("hi. how are you? fine.", ["hi. ", "how are you? ", "fine."]),
        ("It costs 3.50 at e2s.org. OK.", ["It costs 3.50 at e2s.org. ", "OK."]),
        ("Well... maybe. J. R. Smith", ["Well... maybe. ", "J. R. Smith"]),
        ("今日は。元気？はい", ["今日は。", "元気？", "はい"]),  # noqa: RUF001  # full-width on purpose
        ("Une phrase… Ça va.\nBien.", ["Une phrase… ", "Ça va.\n", "Bien."]),
    ],
)  # fmt: skip
def test_sentences_end_where_a_reader_ends_them(text: str, sentences: list[str]):
    assert split_sentences(text) == sentences


@pytest.mark.parametrize("text", ["." * 200_000, "." * 100_000 + ")" * 100_000, '."' * 100_000])
def test_a_run_of_marks_takes_time_proportional_to_its_length(text: str):
    start = time.process_time()
    assert split_sentences(text) == [text]
    assert time.process_time() - start < 2  # takes 0.02 s; was minutes when each mark looked at all behind it


@given(st.text(alphabet="aB. !?\n。)\"'", max_size=60))
def test_sentences_joined_are_the_text(text: str):
    assert "".join(split_sentences(text)) == text


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=1, max_size=12)


@given(WORDS, WORDS)
def test_rouge_l_is_that_of_the_rouge_score_package(a: list[str], b: list[str]):
    expected = RougeScorer(["rougeL"]).score(" ".join(a), " ".join(b))["rougeL"].fmeasure
    assert rouge_l(a, b) == pytest.approx(expected, abs=1e-12)


def test_of_near_duplicates_the_first_stays():
    sentences = [
        "Anna will send the list on Friday.",
        "Tom has to order lunch.",
        "Anna will send them the list on Friday!",
        "ANNA WILL SEND THE LIST ON FRIDAY",
        "Anna forgot the list.",
    ]
    assert drop_near_duplicates(sentences) == [sentences[i] for i in (0, 1, 4)]


def test_sentences_that_the_document_does_not_support_go_first():
    chunks = ["Anna buys a red bicycle at the market.", "Tom waits at the station for Anna."]
    sentences = [
        "Tom flies to New York.",
        "Anna buys a bicycle.",
        "Tom waits for Anna.",
        "Anna waits at the market.",
    ]

    def kept(target_tokens: int) -> list[str]:
        return keep_best_supported(sentences, chunks, count_words, target_tokens=target_tokens)

    assert kept(17) == sentences[1:]
    assert kept(100) == sentences
    assert len(kept(1)) == 1, "one sentence stays even if it is too long"
    assert keep_best_supported([], chunks, count_words, target_tokens=9) == []


def summarizer(n_words: int) -> tuple[Callable[[Sequence[str]], list[str]], list[list[str]]]:
    """A stand-in that makes a sentence of a chunk's first words, and the chunks of each call to it."""
    calls: list[list[str]] = []

    def summarize(chunks: Sequence[str]) -> list[str]:
        calls.append(list(chunks))
        return [f"{' '.join(re.findall('[a-z0-9]+', chunk)[:n_words])}." for chunk in chunks]

    return summarize, calls


def unique_words(n: int) -> str:
    return " ".join(f"w{i}." if i % 10 == 9 else f"w{i}" for i in range(n))


def test_summaries_that_fit_together_are_not_summarized_again():
    summarize, calls = summarizer(n_words=20)
    summary = summarize_document(unique_words(4000), summarize, count_words, target_tokens=60)
    assert (summary.n_chunks, summary.n_levels, len(calls)) == (9, 0, 1)
    assert len(summary.sentences) == 3
    assert count_words(" ".join(summary.sentences)) <= 60


def test_summaries_that_are_too_long_are_summarized_again():
    summarize, calls = summarizer(n_words=60)
    summary = summarize_document(unique_words(20_000), summarize, count_words, target_tokens=60)
    assert (summary.n_levels, len(calls)) == (1, 2)
    assert all(count_words(chunk) <= 480 for call in calls for chunk in call)


def test_there_are_at_most_two_more_levels():
    summarize, calls = summarizer(n_words=400)
    summary = summarize_document(unique_words(20_000), summarize, count_words, target_tokens=60)
    assert (summary.n_levels, len(calls)) == (MAX_LEVELS, MAX_LEVELS + 1) == (2, 3)


def test_when_time_runs_out_between_levels_the_last_summaries_stay():
    summarize, calls = summarizer(n_words=60)

    def until_the_deadline(chunks: Sequence[str]) -> list[str]:
        return summarize(chunks) if not calls else [""] * len(chunks)

    summary = summarize_document(unique_words(20_000), until_the_deadline, count_words, target_tokens=60)
    assert summary.n_levels == 0
    assert summary.sentences
