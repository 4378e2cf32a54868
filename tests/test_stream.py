"""Streams: pieces that joined are the text, sent as soon as certain; work that stops when nobody listens."""

import dataclasses
import gc
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from edge_s2s import GenerationOptions, Seq2SeqModel
from edge_s2s.decoder import DecoderSession
from edge_s2s_export.probe_texts import probe_texts

TEXTS = probe_texts(40)


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "edge_s2s"]


@pytest.fixture(scope="module")
def slow(model: Seq2SeqModel) -> GenerationOptions:
    """500 tokens that are letters, no bytes or blanks, so that each is a piece of its own."""
    tokenizer = model._parts.tokenizer
    others = [
        token
        for token in range(model.manifest.dimensions.vocab_size)
        if tokenizer.is_byte(token) or not tokenizer.decode([token]).strip()
    ]
    return GenerationOptions(max_new_tokens=500, min_new_tokens=500, suppress_tokens=others)


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Iterator[None]:
    yield
    assert not workers()


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 4}, {"num_beams": 3, "num_return_sequences": 2}, {"max_new_tokens": 3}]
)
def test_pieces_joined_are_the_text_of_generate(model: Seq2SeqModel, options: dict[str, int]):
    for text in TEXTS:
        stream = model.stream(text, GenerationOptions(**options))
        pieces = []
        try:
            while True:
                pieces.append(next(stream))
        except StopIteration as end:
            streamed = end.value
        [[best, *_]] = model.generate([text], GenerationOptions(**options))
        assert "".join(pieces) == best.text == streamed.text
        assert (streamed.token_ids, streamed.score) == (best.token_ids, best.score)
        assert all(pieces)


def test_greedy_search_streams_token_by_token(model: Seq2SeqModel, slow: GenerationOptions):
    pieces = list(model.stream(TEXTS[0], slow))
    assert len(pieces) > 100


def test_the_first_piece_comes_long_before_the_last(model: Seq2SeqModel, slow: GenerationOptions):
    stream = model.stream(TEXTS[0], slow)
    next(stream)
    assert workers(), "it still runs"
    stream.close()


def test_closing_a_stream_ends_the_work_within_a_step(
    model: Seq2SeqModel, slow: GenerationOptions, monkeypatch: pytest.MonkeyPatch
):
    generate = DecoderSession.generate
    for n_tokens in (1, 2, 10):
        told: list[int] = []  # tokens that came before the close, then those that came after it

        def watched(
            self: DecoderSession, params: Any, n: int = n_tokens, told: list[int] = told, **callbacks: Any
        ) -> Any:
            on_tokens, cancellation = callbacks["on_tokens"], callbacks["cancellation"]

            def wait(row: int, tokens: list[int]) -> None:
                on_tokens(row, tokens)
                told.extend(tokens)
                while len(told) == n and not cancellation.is_cancelled:
                    time.sleep(0.001)

            return generate(self, params, **{**callbacks, "on_tokens": wait})

        monkeypatch.setattr(DecoderSession, "generate", watched)
        stream = model.stream(TEXTS[0], slow)
        for _ in range(n_tokens):
            next(stream)
        stream.close()
        assert len(told) == n_tokens
        assert not workers()


def test_a_stream_that_is_dropped_ends_too(model: Seq2SeqModel, slow: GenerationOptions):
    stream = model.stream(TEXTS[0], slow)
    next(stream)
    del stream
    gc.collect()
    assert not workers()


def test_work_that_ctrl_c_finds_just_begun_ends_too(
    model: Seq2SeqModel, slow: GenerationOptions, monkeypatch: pytest.MonkeyPatch
):
    begin = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        begin(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.generate(TEXTS * 50, slow)  # minutes
    assert not workers()


def test_a_stream_that_nobody_reads_starts_nothing(model: Seq2SeqModel, slow: GenerationOptions):
    stream = model.stream(TEXTS[0], slow)
    assert not workers()
    stream.close()


def test_an_error_in_the_thread_reaches_the_reader(model: Seq2SeqModel, monkeypatch: pytest.MonkeyPatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise MemoryError("no room")

    stream = model.stream(TEXTS[0])
    with monkeypatch.context() as patch:
        patch.setattr(DecoderSession, "generate", fail)
        with pytest.raises(MemoryError, match="no room"):
            next(stream)
        with pytest.raises(MemoryError, match="no room"):
            model.generate(TEXTS[:3])
        with pytest.raises(MemoryError, match="no room"):
            model.summarize(TEXTS[0])
    assert "".join(model.stream(TEXTS[0])), "the model stays usable"


def test_a_deadline_ends_a_stream_with_what_is_there(model: Seq2SeqModel, slow: GenerationOptions):
    full = model.generate([TEXTS[0]], slow)[0][0].text
    options = dataclasses.replace(slow, deadline_ms=1)
    assert full.startswith("".join(model.stream(TEXTS[0], options)))
    assert model.generate([TEXTS[0]], options)[0][0].finish_reason == "deadline"


def test_many_streams_at_a_time_do_not_mix(model: Seq2SeqModel):
    expected = [best.text for [best] in model.generate(TEXTS)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: "".join(model.stream(text)), TEXTS)) == expected


def test_streams_read_in_turn_in_one_thread_do_not_mix(model: Seq2SeqModel):
    streams = [model.stream(text) for text in TEXTS[:6]]
    texts = [""] * len(streams)
    alive = set(range(len(streams)))
    while alive:
        for i in sorted(alive):
            piece = next(streams[i], None)
            if piece is None:
                alive.remove(i)
            else:
                texts[i] += piece
    assert texts == [best.text for [best] in model.generate(TEXTS[:6])]


def test_a_summary_streams_what_summarize_returns(model: Seq2SeqModel):
    for document in (TEXTS[0], "\n".join(TEXTS)):
        assert "".join(model.stream_summary(document)) == model.summarize(document).text
