"""load, generate and summarize: transformers' answers, whoever asks, however many, and clear refusals."""

import dataclasses
import gc
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, T5ForConditionalGeneration

import edge_s2s
from edge_s2s import GenerationOptions, InputTooLongError, Seq2SeqModel, documents
from edge_s2s.bundle import open_bundle
from edge_s2s.decoder import Floats, Ints, LogitsProcessor, supported_isas
from edge_s2s.tokenizer import Tokenizer
from edge_s2s_export.probe_texts import probe_texts
from tiny_folders import PREFIX

TEXTS = probe_texts(40)
LONG = "\n".join(TEXTS)


# ------------------------------------------ against transformers ------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_new_tokens": 7},
        {"max_length": 6, "min_length": 5},
        {"num_beams": 4, "num_return_sequences": 3},
        {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
        {"num_beams": 4, "early_stopping": "never", "no_repeat_ngram_size": 2, "repetition_penalty": 1.5},
        {"min_new_tokens": 9, "suppress_tokens": [5, 17], "bad_words_ids": [[40, 41], [60]]},
        {"forced_bos_token_id": 9, "forced_eos_token_id": 1, "max_new_tokens": 5},
    ],
)
def test_generate_equals_transformers_on_the_float_bundle(
    float_model: Seq2SeqModel, tiny_folder: Path, options: dict[str, object]
):
    """From text to text, batches of unequal lengths on our side, one source at a time on theirs."""
    hf = T5ForConditionalGeneration.from_pretrained(tiny_folder).eval()
    if "max_length" in options:
        hf.generation_config.max_new_tokens = None  # a default that would win over the option there
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    texts = TEXTS[:12]
    ours = float_model.generate(texts, GenerationOptions(**options), batch_size=5)
    for text, results in zip(texts, ours, strict=True):
        input_ids = tokenizer(PREFIX + text, return_tensors="pt").input_ids
        with torch.no_grad():
            theirs = hf.generate(
                input_ids, do_sample=False, output_scores=True, return_dict_in_generate=True, **options
            )
        assert len(results) == options.get("num_return_sequences", 1)
        for i, result in enumerate(results):
            ids = theirs.sequences[i, 1:].tolist()
            ids = ids[: ids.index(1) + 1] if 1 in ids else ids
            assert list(result.token_ids) == ids
            assert result.text == tokenizer.decode(ids, skip_special_tokens=True)
            assert result.finish_reason == ("eos" if ids[-1] == 1 else "length")
            if "num_beams" in options:
                assert result.score == pytest.approx(theirs.sequences_scores[i].item(), abs=1e-3)


def test_greedy_score_is_the_sum_of_logprobs_by_length(model: Seq2SeqModel):
    for length_penalty in (0.5, 1.0, 2.0):
        [[result]] = model.generate([TEXTS[0]], GenerationOptions(length_penalty=length_penalty))
        assert len(result.token_logprobs) == len(result.token_ids) > 1
        expected = sum(result.token_logprobs) / len(result.token_ids) ** length_penalty
        assert result.score == pytest.approx(expected, rel=1e-5)


# ----------------------------------------- whoever asks, however -----------------------------------------


def answers(results: list[list[edge_s2s.Generation]]) -> list[list[tuple[object, ...]]]:
    """All of the results but how long they took."""
    return [[dataclasses.astuple(dataclasses.replace(r, stats=None)) for r in best] for best in results]  # type: ignore[arg-type]


@pytest.mark.parametrize("num_beams", [1, 4])
def test_a_result_depends_on_no_neighbour_batch_thread_or_kernel(
    model: Seq2SeqModel, tiny_bundle: Path, num_beams: int
):
    options = GenerationOptions(num_beams=num_beams)
    alone = [answers(model.generate([text], options))[0] for text in TEXTS[:12]]
    for batch_size in (1, 3, 12, 100):
        assert answers(model.generate(TEXTS[:12], options, batch_size=batch_size)) == alone
    assert answers(model.generate(TEXTS[11::-1], options)) == alone[::-1]
    for isa in supported_isas():
        with edge_s2s.load(tiny_bundle, num_threads=1, isa=isa) as other:
            results = other.generate(TEXTS[:12], options)
        assert answers(results) == alone
        assert results[0][0].stats.isa == isa


def test_token_ids_are_taken_as_they_are(model: Seq2SeqModel):
    ids = model.encode(TEXTS[0])
    assert ids[-1] == 1
    expected = answers(model.generate([TEXTS[0]]))
    for given in (ids, tuple(ids), np.array(ids)):
        assert answers(model.generate([given])) == expected  # type: ignore[list-item]
    assert answers(model.generate([ids[:-1]])) != expected, "no EOS is added"


def test_threads_share_a_model_and_get_the_same_answers(model: Seq2SeqModel):
    expected = answers(model.generate(TEXTS))
    with ThreadPoolExecutor(16) as pool:
        calls = [(i % len(TEXTS), pool.submit(model.generate, [TEXTS[i % len(TEXTS)]])) for i in range(400)]
        for i, call in calls:
            assert answers(call.result()) == [expected[i]]


def test_models_may_be_loaded_and_closed_while_others_work(tiny_bundle: Path, model: Seq2SeqModel):
    expected = answers(model.generate(TEXTS[:3]))

    def once(_: int) -> bool:
        with edge_s2s.load(tiny_bundle, num_threads=2) as own:
            return answers(own.generate(TEXTS[:3])) == expected

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(once, range(32)))


def test_a_call_that_runs_while_the_model_is_closed_still_finishes(tiny_bundle: Path, model: Seq2SeqModel):
    own = edge_s2s.load(tiny_bundle, num_threads=2)
    stream = own.stream(TEXTS[0])
    first = next(stream)
    own.close()
    assert first + "".join(stream) == model.generate([TEXTS[0]])[0][0].text


def test_a_closed_model_refuses_work_in_a_sentence(tiny_bundle: Path):
    with edge_s2s.load(tiny_bundle) as own:
        pass
    for call in (own.generate, own.summarize, own.stream, own.encode):
        with pytest.raises(ValueError, match="the model is closed"):
            call(["text"] if call == own.generate else "text")  # type: ignore[operator]


def test_a_folder_answers_as_the_file_does(tiny_bundle: Path, tmp_path: Path, model: Seq2SeqModel):
    shutil.unpack_archive(tiny_bundle, tmp_path / "tiny", "zip")
    with edge_s2s.load(tmp_path / "tiny") as own:
        assert answers(own.generate(TEXTS[:2])) == answers(model.generate(TEXTS[:2]))


def test_golden_cases_hold(model: Seq2SeqModel, tiny_bundle: Path):
    with open_bundle(tiny_bundle) as bundle:
        for case in bundle.golden():
            assert tuple(model.encode(case.text)) == case.input_ids
            greedy = GenerationOptions(num_beams=1, num_return_sequences=1)
            token_ids = model.generate([case.text], greedy)[0][0].token_ids
            assert token_ids[: len(case.token_ids)] == case.token_ids


# ------------------------------------------------ refusals ------------------------------------------------


def test_a_single_text_is_a_type_error_with_a_hint(model: Seq2SeqModel):
    with pytest.raises(TypeError, match=r"generate\(\[text\]\)"):
        model.generate("text")


def test_texts_are_any_iterable(model: Seq2SeqModel):
    expected = [best.text for [best] in model.generate(["a", "b"])]
    assert [best.text for [best] in model.generate(text for text in ("a", "b"))] == expected
    assert model.generate(iter([])) == []
    for wrong in (None, 7):
        with pytest.raises(TypeError, match="texts: expected a list of texts, found one"):
            model.generate(wrong)  # type: ignore[arg-type]


def test_options_of_another_type_are_refused_by_name(model: Seq2SeqModel):
    sentence = r"options: expected GenerationOptions, found dict; write GenerationOptions\(num_beams=4\)"
    for call in (model.generate, model.stream, model.summarize):
        with pytest.raises(TypeError, match=sentence):
            call(["text"] if call == model.generate else "text", {"num_beams": 2})  # type: ignore[operator]


@pytest.mark.parametrize("blank", ["", " ", "\n\t \u3000"])
def test_a_blank_text_is_a_value_error_that_names_it(model: Seq2SeqModel, blank: str):
    with pytest.raises(ValueError, match=r"^texts\[1\] is blank$"):
        model.generate(["a", blank])
    with pytest.raises(ValueError, match=r"^the text is blank$"):
        model.generate([blank])
    with pytest.raises(ValueError, match=r"^the text is blank$"):
        model.stream(blank)
    with pytest.raises(ValueError, match=r"^the document is blank$"):
        model.summarize(blank)


@pytest.mark.parametrize(
    ("source", "error", "sentence"),
    [
        ([], ValueError, r"texts\[1\] has no token ids"),
        ([3, -1], ValueError, r"texts\[1\]: expected token ids in 0\.\.\d+, found -1"),
        ([3, 9999], ValueError, "found 9999"),
        ([1 << 40], ValueError, f"found {1 << 40}"),
        ([1.5], TypeError, r"texts\[1\]: expected a str or a list of token ids, found list"),
        (["a"], TypeError, "expected a str or a list of token ids"),
        (b"bytes", TypeError, "found bytes"),
        (None, TypeError, "found NoneType"),
        (7, TypeError, "found int"),
    ],
)
def test_what_is_no_source_is_refused_by_name(
    model: Seq2SeqModel, source: object, error: type[Exception], sentence: str
):
    with pytest.raises(error, match=sentence):
        model.generate(["a", source])  # type: ignore[list-item]


def test_too_long_a_text_is_an_error_with_the_limit_unless_it_may_be_cut(model: Seq2SeqModel):
    limit = model.manifest.dimensions.max_source_len
    n_tokens = len(model.encode(LONG))
    assert n_tokens > limit
    with pytest.raises(InputTooLongError, match=rf"texts\[1\] has more than the {limit} tokens"):
        model.generate(["a", LONG])
    [short], [cut] = model.generate(["a", LONG], truncation=True)
    assert (short.truncated, cut.truncated) == (False, True)
    ids = model.encode(LONG)
    assert cut.token_ids == model.generate([[*ids[: limit - 1], 1]])[0][0].token_ids, "EOS stays"
    with pytest.raises(InputTooLongError):
        model.generate([ids])
    assert model.generate([ids], truncation=True)[0][0].truncated


def test_a_text_of_exactly_the_limit_is_read_whole(model: Seq2SeqModel):
    limit = model.manifest.dimensions.max_source_len
    assert not model.generate([[7] * limit], truncation=True)[0][0].truncated


@pytest.mark.parametrize("batch_size", [0, -1, 1025])
def test_batch_size_has_limits(model: Seq2SeqModel, batch_size: int):
    with pytest.raises(ValueError, match="batch_size"):
        model.generate(["a"], batch_size=batch_size)


def test_no_texts_are_no_results(model: Seq2SeqModel):
    assert model.generate([]) == []


def test_options_are_checked_before_any_work(model: Seq2SeqModel):
    options = GenerationOptions(max_new_tokens=60_000)
    for call in (lambda: model.generate(["a"], options), lambda: model.stream("a", options)):
        with pytest.raises(ValueError, match="max_new_tokens is 60000"):
            call()


# ------------------------------------------------ deadline ------------------------------------------------


@pytest.mark.parametrize("num_beams", [1, 4])
def test_after_the_deadline_no_step_and_no_batch_begins(model: Seq2SeqModel, num_beams: int):
    """The third step sleeps until the deadline has passed; time enough for what comes before it."""
    texts, steps = TEXTS[:4], [0, 0, 0, 0]

    def count(i: int) -> LogitsProcessor:
        def processor(tokens: Ints, scores: Floats) -> None:
            if max(steps) < tokens.shape[1] == 3:
                time.sleep(1.0)
            steps[i] = tokens.shape[1]

        return processor

    options = GenerationOptions(num_beams=num_beams, max_new_tokens=9, min_new_tokens=9, deadline_ms=1000)
    results = model.generate(texts, options, batch_size=2, logits_processor=[count(i) for i in range(4)])
    assert steps == [3, 3, 0, 0]
    for [read] in results[:2]:
        assert (len(read.token_ids), read.finish_reason) == (3, "deadline")
        assert read.text
    for [unread] in results[2:]:
        assert (unread.text, unread.token_ids, unread.finish_reason) == ("", (), "deadline")
        assert unread.stats.encoder_ms == 0


def test_a_deadline_counts_the_time_in_which_texts_come(model: Seq2SeqModel):
    def texts() -> Iterator[str]:
        yield TEXTS[0]
        time.sleep(0.02)
        yield LONG

    for [result] in model.generate(texts(), GenerationOptions(deadline_ms=10)):
        assert (result.text, result.finish_reason, result.stats.source_tokens) == ("", "deadline", 0)


def test_after_a_deadline_every_source_still_has_all_its_sequences(model: Seq2SeqModel):
    options = GenerationOptions(num_beams=3, num_return_sequences=3, deadline_ms=1, max_new_tokens=300)
    assert [len(best) for best in model.generate(TEXTS, options)] == [3] * len(TEXTS)


def test_a_far_deadline_changes_nothing(model: Seq2SeqModel):
    options = GenerationOptions(deadline_ms=1_000_000)
    assert answers(model.generate(TEXTS[:3], options)) == answers(model.generate(TEXTS[:3]))


# ---------------------------------------------- interruption ----------------------------------------------


def test_ctrl_c_reaches_generate_at_once_and_the_model_stays_usable(model: Seq2SeqModel):
    expected = answers(model.generate(TEXTS[:2]))
    slow = GenerationOptions(max_new_tokens=500, min_new_tokens=500, num_beams=4)
    gc.disable()  # Hypothesis leaves a hook there, in which an interrupt would be lost
    for delay in (0.02, 0.1, 0.3):
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        start = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            model.generate(TEXTS * 50, slow)
        assert time.perf_counter() - start < 20, "all of it takes minutes"
        timer.join()
    gc.enable()
    assert answers(model.generate(TEXTS[:2])) == expected
    assert not [thread for thread in threading.enumerate() if thread.name == "edge_s2s"]


# ----------------------------------------------- summarize -----------------------------------------------


def test_a_short_document_takes_one_pass(model: Seq2SeqModel):
    [[expected]] = model.generate([TEXTS[0]], GenerationOptions(checks=("loops", "numbers")))
    summary = model.summarize(TEXTS[0])
    [provenance] = summary.provenance
    assert summary.text[provenance.start : provenance.end] == summary.text.strip()
    assert answers([[dataclasses.replace(summary, provenance=())]]) == answers([[expected]])
    assert (summary.stats.n_chunks, summary.stats.n_levels) == (1, 0)


def test_a_long_document_is_summarized_by_the_rule_with_the_models_answers(
    model: Seq2SeqModel, tiny_bundle: Path
):
    """The rule itself is tested in test_documents."""
    with open_bundle(tiny_bundle) as bundle:
        n_tokens = bundle.manifest.dimensions.vocab_size
        tokenizer = Tokenizer(bundle.read("tokenizer.json"), vocab_size=n_tokens)
    checked = GenerationOptions(checks=("loops", "numbers"))
    summary = model.summarize(LONG)
    expected = documents.summarize_document(
        LONG,
        lambda chunks: [best.text for [best] in model.generate(chunks, checked)],
        lambda text: len(tokenizer.tokenize(text)),
        target_tokens=model.manifest.generation.max_new_tokens,
    )
    assert summary.text == " ".join(support.text for support in expected.sentences)
    assert [LONG[p.source_start : p.source_end] for p in summary.provenance] == [
        support.place.of(LONG) for support in expected.sentences
    ]
    assert (summary.stats.n_chunks, summary.stats.n_levels) == (expected.n_chunks, expected.n_levels)
    assert summary.stats.n_chunks > 3
    assert summary.token_ids == tuple(tokenizer.tokenize(summary.text))
    assert summary.token_logprobs == ()
    assert not summary.truncated


def test_progress_of_a_long_document_ends_with_all_its_chunks(model: Seq2SeqModel):
    seen: list[tuple[int, int]] = []
    document = " ".join(TEXTS * 30)
    generation = model.summarize(document, on_progress=lambda *counts: seen.append(counts))
    n_chunks = generation.stats.n_chunks
    assert n_chunks > 8, "more than one batch"
    assert [total for _, total in seen].count(n_chunks) >= 2
    assert [done for done, total in seen if total == n_chunks] == [*range(8, n_chunks, 8), n_chunks]
    seen.clear()
    model.summarize(TEXTS[0], on_progress=lambda *counts: seen.append(counts))
    assert not seen, "a document of one pass streams instead"


def test_a_long_document_keeps_to_its_deadline(model: Seq2SeqModel):
    options = GenerationOptions(max_new_tokens=300, min_new_tokens=300)
    start = time.process_time()
    model.summarize(LONG, options)
    seconds = time.process_time() - start
    start = time.process_time()
    summary = model.summarize(LONG, dataclasses.replace(options, deadline_ms=50))
    assert time.process_time() - start < seconds / 2
    assert summary.finish_reason == "deadline"


def test_a_document_that_cannot_even_be_cut_in_time_has_an_empty_summary(
    model: Seq2SeqModel, monkeypatch: pytest.MonkeyPatch
):
    document = LONG * 100  # 700 KB
    tokenize, n_characters = Tokenizer._tokenize, 0

    def counted(self: Tokenizer, text: str) -> list[int]:
        nonlocal n_characters
        n_characters += len(text)
        return tokenize(self, text)

    monkeypatch.setattr(Tokenizer, "_tokenize", counted)
    summary = model.summarize(document, GenerationOptions(deadline_ms=1))
    assert 0 < n_characters < len(document) / 10, "the rest is not even tokenized"
    n_characters = 0
    model.generate([document], truncation=True)
    assert 0 < n_characters < len(document) / 10, "nor what is cut off"
    with pytest.raises(InputTooLongError):
        model.generate([document])
    assert (summary.text, summary.token_ids, summary.finish_reason) == ("", (), "deadline")
    assert summary.stats.n_chunks == 0


def test_a_short_document_after_many_blanks_is_found(model: Seq2SeqModel):
    assert model.summarize(" " * 70_000 + TEXTS[0]).finish_reason in ("eos", "length")


def test_ctrl_c_reaches_a_long_summary(model: Seq2SeqModel):
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        model.summarize(LONG * 200, GenerationOptions(max_new_tokens=500, min_new_tokens=500, num_beams=4))
    assert time.perf_counter() - start < 20, "all of it takes minutes"
    timer.join()
