"""The rule for long documents: how they are cut, what is dropped, what is kept."""

import json
import os
import re
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

import edge_s2s
from edge_s2s import GenerationOptions
from edge_s2s.documents import (
    MAX_LEVELS,
    NEAR,
    Sentence,
    Span,
    best_place,
    drop_near_duplicates,
    keep_best_supported,
    rouge_l,
    split_document,
    split_sentences,
    summarize_document,
    supports_of,
)

DATA = Path(os.environ.get("EDGE_S2S_DATA", Path(__file__).parents[2] / "shared" / "data"))
REPORT = Path(__file__).parent.parent / "reports" / "documents.json"
DEFAULT = edge_s2s.default_bundle_path()


def count_words(text: str) -> int:
    return len(text.split())


def count_pieces(text: str) -> int:
    """A tokenizer in which joining texts makes more tokens than they have alone, as newlines may."""
    return len(re.findall(r"\w{1,4}|[^\w\s]|\n(?=.)", text))


def chunks_of(document: str, count: Callable[[str], int], **options: int) -> list[str]:
    return [span.of(document) for span in split_document(document, count, **options)]


def as_sentences(texts: Sequence[str]) -> list[Sentence]:
    """Each from a chunk of its own."""
    return [Sentence(text, i, i) for i, text in enumerate(texts)]


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
    chunks = chunks_of(document, count, chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens)
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
    again = chunks_of(document, count, chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens)
    assert again == chunks


def test_tokens_that_appear_where_units_meet_count_for_the_overlap():
    chunks = chunks_of("w0\n# Part\nw1\nAnna: w2", count_pieces, chunk_tokens=8, overlap_tokens=3)
    assert chunks == ["w0\n# Part\nw1", "w1\nAnna: w2"]


def test_a_dialogue_is_cut_between_turns_and_overlaps_by_whole_turns():
    turns = [f"Speaker {i % 2}: I say number {i}. And more." for i in range(40)]  # 8 words each
    chunks = chunks_of("\n".join(turns), count_words, chunk_tokens=50, overlap_tokens=20)
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
    chunks = chunks_of(document, count)
    assert all(count_words(chunk.replace("\x00", "")) <= 480 for chunk in chunks)
    assert "".join(chunks).count("\x00") >= 4000
    assert n_counted < 10 * len(document)


def test_a_heading_is_the_best_border_and_stays_with_its_text():
    section = "# Heading\n\nOne two three. Four five six.\n\nSeven eight nine."  # 11 words
    chunks = chunks_of("\n\n".join([section] * 6), count_words, chunk_tokens=30, overlap_tokens=0)
    assert chunks == ["\n\n".join([section] * 2)] * 3


def test_line_breaks_within_a_paragraph_are_no_borders():
    document = "\n".join(f"line {i} goes\non and on." for i in range(50))
    for chunk in chunks_of(document, count_words, chunk_tokens=40, overlap_tokens=0):
        assert chunk.startswith("line")
        assert chunk.endswith("on.")


def test_a_sentence_longer_than_a_chunk_is_cut_between_words_and_a_longer_word_within():
    words = " ".join(f"w{i}" for i in range(1000))
    chunks = chunks_of(words, count_words, chunk_tokens=100, overlap_tokens=0)
    assert " ".join(chunks) == words
    assert "".join(chunks_of("x" * 1000, len, chunk_tokens=99, overlap_tokens=9)) == "x" * 1000


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
    sentences = as_sentences(
        [
            "Anna will send the list on Friday.",
            "Tom has to order lunch.",
            "Anna will send them the list on Friday!",
            "ANNA WILL SEND THE LIST ON FRIDAY",
            "Anna forgot the list.",
        ]
    )
    assert drop_near_duplicates(sentences) == [sentences[i] for i in (0, 1, 4)]


def test_far_apart_only_what_says_the_same_is_dropped():
    between = [f"Number {i} is {' '.join(str(i * j) for j in range(8))}." for i in range(1, NEAR + 2)]
    texts = ["Anna will send the list on Friday.", *between,
             "Anna will send them the list on Friday!", "anna will SEND the list on Friday"]  # fmt: skip
    assert [s.text for s in drop_near_duplicates(as_sentences(texts))] == texts[:-1]


def test_work_on_duplicates_is_proportional_to_the_sentences(monkeypatch: pytest.MonkeyPatch):
    n_compared = 0

    def counted(a: Sequence[str], b: Sequence[str]) -> float:
        nonlocal n_compared
        n_compared += 1
        return rouge_l(a, b)

    monkeypatch.setattr("edge_s2s.documents.rouge_l", counted)
    drop_near_duplicates(as_sentences([f"w{i} x{i} y{i}" for i in range(3000)]))
    assert n_compared <= 3000 * NEAR


def test_sentences_that_their_chunk_does_not_support_go_first():
    chunks = ["Anna buys a red bicycle at the market.", "Tom waits at the station for Anna."]
    document = " ".join(chunks)
    spans = [Span(0, len(chunks[0])), Span(len(chunks[0]) + 1, len(document))]
    sentences = [
        Sentence("Tom flies to New York.", 0, 0),
        Sentence("Anna buys a bicycle.", 0, 0),
        Sentence("Tom waits for Anna.", 1, 1),
        Sentence("Anna waits at the market.", 0, 1),
        Sentence("Anna buys a red bicycle.", 1, 1),  # says another chunk
    ]

    def kept(target_tokens: int) -> list[Sentence]:
        return keep_best_supported(sentences, document, spans, count_words, target_tokens=target_tokens)

    assert kept(13) == sentences[1:4]
    assert kept(100) == sentences
    assert len(kept(1)) == 1, "one sentence stays even if it is too long"
    assert keep_best_supported([], document, spans, count_words, target_tokens=9) == []


def test_kept_sentences_fit_together_even_where_they_meet():
    def count(text: str) -> int:
        return count_words(text) + 3 * text.count(". ")

    chunk = "One two. Three four. Five six. Seven eight."
    sentences = [Sentence(text, 0, 0) for text in ("One two.", "Three four.", "Five six.", "Seven eight.")]
    kept = keep_best_supported(sentences, chunk, [Span(0, len(chunk))], count, target_tokens=8)
    assert [sentence.text for sentence in kept] == ["One two.", "Three four."]


def test_a_sentence_is_supported_by_the_one_that_says_most_of_it():
    document = "Anna: Hi.\nTom: I sold the red bicycle. Twice!\nAnna: The red bicycle? I wanted to buy it."
    for text, said in [
        ("Tom sold the red bicycle.", "Tom: I sold the red bicycle."),
        ("Anna wanted to buy it.", "I wanted to buy it."),
        ("Nobody knows.", "Anna: Hi."),  # the first, if no word is shared
    ]:
        assert best_place(text, document, Span(0, len(document))).of(document) == said
    within = Span(document.index("Anna: The"), len(document))
    assert best_place("Tom sold the red bicycle.", document, within).of(document) == "Anna: The red bicycle?"


def test_each_sentence_of_a_text_has_its_support():
    document = "Anna buys a bicycle. Tom waits at home."
    found = supports_of("Tom waits. A bicycle is bought by Anna.", document)
    assert [(text, place.of(document)) for text, place in found] == [
        ("Tom waits.", "Tom waits at home."),
        ("A bicycle is bought by Anna.", "Anna buys a bicycle."),
    ]


@settings(max_examples=100, deadline=None)
@given(document=documents())
def test_support_of_a_long_document_is_in_the_chunk_that_said_it(document: str):
    summarize, calls = summarizer(n_words=3)
    summary = summarize_document(document, summarize, count_words, target_tokens=30, chunk_tokens=12,
                                 overlap_tokens=2)  # fmt: skip
    for text, place in summary.sentences:
        chunk = next(c for call in calls for c in call if text in summarizer(3)[0]([c]))
        assert place.of(document) in chunk
        assert {*re.findall("[a-z0-9]+", text)} & {*re.findall("[a-z0-9]+", place.of(document))}


def test_support_survives_summarizing_again():
    summarize, _ = summarizer(n_words=60)
    document = unique_words(20_000)
    summary = summarize_document(document, summarize, count_words, target_tokens=60)
    assert summary.n_levels == 1
    for text, place in summary.sentences:
        assert set(re.findall(r"w\d+", text)) & set(re.findall(r"w\d+", place.of(document)))


def test_a_focus_chooses_what_is_read():
    summarize, calls = summarizer(n_words=5)
    words = unique_words(20_000).replace("w15003 ", "penguins w15003 ")
    summary = summarize_document(words, summarize, count_words, target_tokens=60, focus="Why penguins?")
    assert summary.n_chunks == len(calls[0]) == 1
    assert "penguins" in calls[0][0]
    place = summary.sentences[0].place
    assert abs(place.start - words.index("penguins")) < 480 * 8


def test_memory_and_tokenizing_are_proportional_to_a_long_document():
    n_counted = 0

    def count(text: str) -> int:
        nonlocal n_counted
        n_counted += len(text)
        return len(text) // 4 + text.count("\n") * 2  # more where lines meet

    def cost(unit: str, n: int) -> tuple[int, int]:
        nonlocal n_counted
        document = unit * (n // len(unit))
        n_counted = 0
        tracemalloc.start()
        split_document(document, count)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return n_counted, peak

    n = 80_000
    for unit in ("x", "word ", "Anna: hi\n", "a\n", "# H\n\nText.\n\n"):
        counted, peak = cost(unit, n)
        assert counted <= 12 * n, unit
        assert peak <= 4 * n, unit


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
    assert count_words(" ".join(support.text for support in summary.sentences)) <= 60


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


@pytest.mark.release
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not DEFAULT.exists(), reason="installed without the default bundle")
def test_meetings_against_truncation_and_lead():
    """QMSum and AMI with the default bundle, and 20,000 words; writes reports/documents.json."""
    report: dict[str, dict[str, object]] = {}
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)

    def rouge(targets: list[str], outputs: list[str]) -> list[float]:
        scores = [scorer.score(target, output) for target, output in zip(targets, outputs, strict=True)]
        return [
            round(100 * sum(score[name].fmeasure for score in scores) / len(scores), 2)
            for name in ("rouge1", "rouge2", "rougeL")
        ]

    with edge_s2s.load(num_threads=2) as model:
        for name in ("qmsum_general", "ami_abstractive"):
            path = DATA / name / "valid.jsonl.zst"
            if not path.exists():
                pytest.skip("data is not there (EDGE_S2S_DATA)")
            lines = zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read().splitlines()
            rows = [json.loads(line) for line in lines]
            sources, targets = [row["source"] for row in rows], [row["target"] for row in rows]
            start = time.perf_counter()
            ours = [model.summarize(source) for source in sources]
            seconds = (time.perf_counter() - start) / len(rows)
            checked = GenerationOptions(checks=("loops", "numbers"))
            n_words = round(sum(count_words(summary.text) for summary in ours) / len(rows))
            outputs = {
                "chunks, reduce, best supported": [summary.text for summary in ours],
                "truncated to 1,024 tokens": [
                    best.text for [best] in model.generate(sources, checked, truncation=True)
                ],
                "lead, as many words": [" ".join(source.split()[:n_words]) for source in sources],
                "lead-3 turns": [" ".join(source.splitlines()[:3]) for source in sources],
            }
            report[name] = {
                "documents": len(rows),
                "words": round(sum(map(count_words, sources)) / len(rows)),
                "words_of_targets": round(sum(map(count_words, targets)) / len(rows)),
                "words_of_summaries": n_words,
                "seconds_a_document": round(seconds, 1),
                "rouge_1_2_l": {how: rouge(targets, texts) for how, texts in outputs.items()},
            }
            for summary, source in zip(ours, sources, strict=True):
                assert len(summary.provenance) >= 1
                for place in summary.provenance:
                    assert source[place.source_start : place.source_end].strip()
        long = "\n".join(sources)[: 20_000 * 6]
        start = time.perf_counter()
        summary = model.summarize(long)
        report["long"] = {
            "words": count_words(long),
            "chunks": summary.stats.n_chunks,
            "seconds": round(time.perf_counter() - start, 1),
        }
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    for name in ("qmsum_general", "ami_abstractive"):
        scores = report[name]["rouge_1_2_l"]
        assert isinstance(scores, dict)
        ours_scores, *others = scores.values()
        assert all(ours_scores[i] > other[i] for other in others for i in range(3))
    assert report["long"]["words"] >= 20_000  # type: ignore[operator]
    assert report["long"]["seconds"] <= 30  # type: ignore[operator]
