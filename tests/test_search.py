"""What greedy and beam search promise, against searches written here over the step API."""

import itertools
import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_s2s.decoder import Cancellation, DecoderSession, Floats, Hypothesis, Ints
from edge_s2s.manifest import GenerationDefaults
from tiny_models import EOS, START, TinyModel, random_t5

SOURCES = [[5, 9, 30], [2], list(range(20, 44)), [7, 7, 8, 60, 11, 12], [33, 4]]
MAX_BEAMS = 64
RULES: dict[str, Any] = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "min_new_tokens": 4}
SEARCHES = {
    "greedy": {"max_new_tokens": 20},
    "beams": {"max_new_tokens": 20, "num_beams": 4, "num_return_sequences": 4},
    "beams with rules": {"max_new_tokens": 20, "num_beams": 3, "length_penalty": 0.7, **RULES},
}


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return random_t5("t5-v1.1", 2)


@pytest.fixture(scope="module")
def cross_kvs(model: TinyModel) -> list[Floats]:
    return [model.cross_kv(ids) for ids in SOURCES]


def log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def textbook_beam_search(
    session: DecoderSession, n_beams: int, max_new_tokens: int
) -> tuple[tuple[int, ...], float]:
    """The best sequence of one source by the sum of its log-probabilities; it never stops early."""
    live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    ended: list[tuple[float, tuple[int, ...]]] = []
    for _ in range(max_new_tokens):
        logprobs = log_softmax(session.step([ids[-1] if ids else START for _, ids in live]))
        candidates = [
            (score + logprobs[row, token], (*ids, token), row)
            for row, (score, ids) in enumerate(live)
            for token in range(logprobs.shape[1])
        ]
        best = sorted(candidates, reverse=True)[: 2 * n_beams]
        ended += [(score, ids) for score, ids, _ in best[:n_beams] if ids[-1] == EOS]
        survivors = [candidate for candidate in best if candidate[1][-1] != EOS][:n_beams]
        session.reorder_cache([row for *_, row in survivors])
        live = [(score, ids) for score, ids, _ in survivors]
    score, ids = max(ended + live)
    return ids, score


@pytest.mark.parametrize("num_beams", [1, 2, 4])
def test_search_equals_a_textbook_beam_search_which_with_one_beam_is_greedy(
    model: TinyModel, cross_kvs: list[Floats], num_beams: int
):
    options = {"num_beams": num_beams, "length_penalty": 0.0, "early_stopping": "never"}
    for cross_kv in cross_kvs:
        [[found]] = model.generate([cross_kv], max_new_tokens=12, **options)
        with model.decoder.session(1, num_beams, cross_kv.shape[3], 12) as session:
            session.set_source(0, cross_kv)
            expected, score = textbook_beam_search(session, num_beams, 12)
        assert found.token_ids == expected
        assert found.score == pytest.approx(score, abs=1e-4)  # 12 float32 additions


def all_sequences(session: DecoderSession, vocab_size: int, max_len: int) -> dict[tuple[int, ...], float]:
    """Every sequence that ends in EOS or has max_len tokens, with the sum of its log-probabilities."""
    ended: dict[tuple[int, ...], float] = {}
    live: dict[tuple[int, ...], float] = {(): 0.0}
    for _ in range(max_len):
        logprobs = log_softmax(session.step([ids[-1] if ids else START for ids in live]))
        extended = {
            (*ids, token): total + logprobs[row, token]
            for row, (ids, total) in enumerate(live.items())
            for token in range(vocab_size)
        }
        ended |= {ids: total for ids, total in extended.items() if ids[-1] == EOS}
        parents = list(live)
        live = {ids: total for ids, total in extended.items() if ids[-1] != EOS}
        if len(live) <= MAX_BEAMS:  # not after the last step
            session.reorder_cache([parents.index(ids[:-1]) for ids in live])
    return ended | live


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_beam_as_wide_as_the_tree_finds_what_exhaustive_search_finds(length_penalty: float, seed: int):
    n_new, n_best = 4, 10  # 4 words besides EOS: MAX_BEAMS sequences are alive before the last step
    model = random_t5("t5-untied", seed, vocab_size=5)
    cross_kv = model.cross_kv([2, 3, 4])
    with model.decoder.session(1, MAX_BEAMS, 3, n_new) as session:
        session.set_source(0, cross_kv)
        sums = all_sequences(session, 5, n_new)
    assert len(sums) == 1 + 4 + 16 + 64 * 5
    scores = {ids: total / len(ids) ** length_penalty for ids, total in sums.items()}
    [found] = model.generate(
        [cross_kv],
        num_beams=MAX_BEAMS,
        num_return_sequences=n_best,
        max_new_tokens=n_new,
        length_penalty=length_penalty,
        early_stopping="never",
    )
    assert [h.token_ids for h in found] == sorted(scores, key=scores.__getitem__, reverse=True)[:n_best]
    assert [h.score for h in found] == pytest.approx([scores[h.token_ids] for h in found], abs=1e-4)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_batch_gives_the_same_bits_as_each_source_alone(
    model: TinyModel, cross_kvs: list[Floats], search: str
):
    batch = model.generate(cross_kvs, **SEARCHES[search])
    assert batch == [model.generate([cross_kv], **SEARCHES[search])[0] for cross_kv in cross_kvs]
    lens = [len(hypotheses[0].token_ids) for hypotheses in batch]
    assert len(set(lens)) > 1, "some source must leave the batch before others"


@pytest.mark.parametrize("search", SEARCHES)
def test_finish_reason_is_eos_exactly_if_the_last_token_is(
    model: TinyModel, cross_kvs: list[Floats], search: str
):
    found = list(itertools.chain(*model.generate(cross_kvs, **SEARCHES[search])))
    for hypothesis in found:
        assert EOS not in hypothesis.token_ids[:-1]
        if hypothesis.token_ids[-1] == EOS:
            assert hypothesis.finish_reason == "eos"
        else:
            assert (hypothesis.finish_reason, len(hypothesis.token_ids)) == ("length", 20)
    assert {hypothesis.finish_reason for hypothesis in found} == {"eos", "length"}


def test_searching_longer_never_finds_worse(model: TinyModel, cross_kvs: list[Floats]):
    scores = {
        early_stopping: [
            hypotheses[0].score
            for hypotheses in model.generate(
                cross_kvs, num_beams=3, max_new_tokens=20, length_penalty=2.0, early_stopping=early_stopping
            )
        ]
        for early_stopping in (True, False, "never")
    }
    assert all(map(float.__le__, scores[True], scores[False]))
    assert all(map(float.__le__, scores[False], scores["never"]))
    assert scores[True] != scores["never"]


def test_bad_words_follow_the_corner_cases_of_transformers(model: TinyModel, cross_kvs: list[Floats]):
    plain = model.generate(cross_kvs, max_new_tokens=8)
    first, second = plain[0][0].token_ids[:2]

    def with_bad(*words: tuple[int, ...]) -> list[list[Hypothesis]]:
        return model.generate(cross_kvs, max_new_tokens=8, bad_words_ids=words)

    assert with_bad((EOS,)) == plain, "a word that is EOS alone does not count"
    assert with_bad((START, first)) == plain, "a word needs a history as long as itself"
    assert with_bad((START, first, second)) == plain
    assert with_bad((first, second))[0][0].token_ids[:1] == (first,)
    assert with_bad((first, second))[0][0].token_ids[1] != second
    assert with_bad((first,))[0][0].token_ids[0] != first


def test_where_every_token_is_forbidden_beam_search_returns_what_it_has(
    model: TinyModel, cross_kvs: list[Floats]
):
    everything = tuple(range(model.spec.keys["vocab_size"]))
    for hypotheses in model.generate(cross_kvs, num_beams=2, max_new_tokens=5, suppress_tokens=everything):
        assert [(h.token_ids, h.finish_reason) for h in hypotheses] == [((), "length")]
    words = [(token, other) for token in everything for other in everything if EOS not in (token, other)]
    only_pairs_forbidden = {"bad_words_ids": words, "suppress_tokens": (EOS,), "num_beams": 2}
    plain = model.generate(cross_kvs, num_beams=2, max_new_tokens=1, suppress_tokens=(EOS,))
    for [expected], [found] in zip(
        plain, model.generate(cross_kvs, max_new_tokens=5, **only_pairs_forbidden), strict=True
    ):
        assert found.token_ids == expected.token_ids
        assert found.score == expected.score


def test_if_fewer_sequences_exist_than_asked_for_the_rest_is_empty(model: TinyModel, cross_kvs: list[Floats]):
    all_but_two = tuple(token for token in range(model.spec.keys["vocab_size"]) if token not in (EOS, 9))
    options = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 1, "suppress_tokens": all_but_two}
    for found in model.generate(cross_kvs, **options):
        assert {h.token_ids for h in found[:2]} == {(EOS,), (9,)}
        assert [(h.token_ids, h.score) for h in found[2:]] == [((), -1e9)] * 2


# Interruption. Beam search is interrupted from on_tokens, so always after the same step.


def interrupted_at(
    model: TinyModel, cross_kvs: list[Floats], call: int, **options: Any
) -> tuple[list[list[Hypothesis]], list[list[int]]]:
    """What is there, and what was streamed, if the call-th call of on_tokens cancels."""
    cancellation = Cancellation()
    streamed: list[list[int]] = [[] for _ in cross_kvs]
    calls = itertools.count()

    def on_tokens(row: int, tokens: list[int]) -> None:
        streamed[row] += tokens
        if next(calls) == call:
            cancellation.cancel()

    callbacks = {"on_tokens": on_tokens, "cancellation": cancellation}
    return model.generate(cross_kvs, callbacks=callbacks, **options), streamed


@pytest.mark.parametrize("call", [0, 1, 5, 10])
@pytest.mark.parametrize("num_beams", [1, 4])
def test_cancelling_returns_what_is_there_honestly_scored(
    model: TinyModel, cross_kvs: list[Floats], num_beams: int, call: int
):
    options = {"max_new_tokens": 20, "num_beams": num_beams, "length_penalty": 1.5}
    options |= {"num_return_sequences": num_beams} if num_beams > 1 else {}
    found, streamed = interrupted_at(model, cross_kvs, call, **options)
    complete = model.generate(cross_kvs, **options)
    cancelled = [i for i, hypotheses in enumerate(found) if hypotheses[0].finish_reason == "cancelled"]
    assert cancelled
    for i, hypotheses in enumerate(found):
        if i not in cancelled:
            assert hypotheses == complete[i]
            continue
        ended = [h.token_ids[-1:] == (EOS,) for h in hypotheses]
        assert ended == sorted(ended, reverse=True), "what has finished comes first"
        for h in hypotheses:
            assert h.finish_reason == "cancelled"
            assert 1 <= len(h.token_ids) <= 20
            assert h.score == pytest.approx(sum(h.token_logprobs) / len(h.token_ids) ** 1.5, abs=1e-4)
        if num_beams == 1:
            n = len(hypotheses[0].token_ids)
            assert hypotheses[0].token_ids == complete[i][0].token_ids[:n]
            assert n < 20
    assert streamed == [list(hypotheses[0].token_ids) for hypotheses in found]


@pytest.mark.parametrize("num_beams", [1, 2, 4])
def test_no_step_begins_after_a_cancel(model: TinyModel, cross_kvs: list[Floats], num_beams: int):
    for step in range(1, 9):
        cancellation = Cancellation()
        steps: set[int] = set()

        def processor(tokens: Ints, _scores: Floats, step: int = step) -> None:
            steps.add(tokens.shape[1])  # noqa: B023
            if tokens.shape[1] == step:
                cancellation.cancel()  # noqa: B023

        callbacks = {"logits_processors": [processor] * len(cross_kvs), "cancellation": cancellation}
        options = {"num_beams": num_beams, "max_new_tokens": 12, "suppress_tokens": (EOS,)}
        found = model.generate(cross_kvs, callbacks=callbacks, **options)
        assert steps == set(range(1, step + 1))
        assert {(len(h.token_ids), h.finish_reason) for [h] in found} == {(step, "cancelled")}


def test_cancelled_before_the_start_there_is_nothing(model: TinyModel, cross_kvs: list[Floats]):
    cancellation = Cancellation()
    cancellation.cancel()
    for num_beams in (1, 3):
        for [h] in model.generate(cross_kvs, num_beams=num_beams, callbacks={"cancellation": cancellation}):
            assert h == Hypothesis((), 0.0, (), "cancelled")


def test_a_deadline_returns_what_is_there(model: TinyModel, cross_kvs: list[Floats]):
    [[complete]] = model.generate(cross_kvs[:1], max_new_tokens=20, suppress_tokens=(EOS,))

    def until(deadline_ms: int, seconds_after_two: float) -> Hypothesis:
        told: list[int] = []

        def on_tokens(row: int, tokens: list[int]) -> None:
            told.extend(tokens)
            time.sleep(seconds_after_two if len(told) == 2 else 0)

        callbacks = {"deadline_ms": deadline_ms, "on_tokens": on_tokens}
        options = {"max_new_tokens": 20, "suppress_tokens": (EOS,)}
        return model.generate(cross_kvs[:1], callbacks=callbacks, **options)[0][0]

    assert until(0, 0) == Hypothesis((), 0.0, (), "deadline")
    found = until(500, 0.5)
    assert found.finish_reason == "deadline"
    assert len(found.token_ids) == 2, "the step after the deadline does not begin"
    assert found.token_ids == complete.token_ids[: len(found.token_ids)]
    assert found.score == pytest.approx(sum(found.token_logprobs) / len(found.token_ids), abs=1e-5)
    assert until(100_000, 0) == complete


@pytest.mark.parametrize("search", SEARCHES)
def test_the_stream_is_the_first_sequence(model: TinyModel, cross_kvs: list[Floats], search: str):
    calls: list[tuple[int, list[int]]] = []
    callbacks = {"on_tokens": lambda row, tokens: calls.append((row, tokens))}
    found = model.generate(cross_kvs, callbacks=callbacks, **SEARCHES[search])
    assert found == model.generate(cross_kvs, **SEARCHES[search]), "listening changes nothing"
    for row, hypotheses in enumerate(found):
        assert tuple(itertools.chain(*(t for r, t in calls if r == row))) == hypotheses[0].token_ids
    assert all(tokens for _, tokens in calls)
    if search == "greedy":
        assert all(len(tokens) == 1 for _, tokens in calls)
    else:
        assert len(calls) > 2 * len(found), "tokens come as soon as all beams share them, not at the end"


def test_an_exception_of_the_callback_ends_the_search_at_once(model: TinyModel, cross_kvs: list[Floats]):
    calls: list[int] = []

    def on_tokens(row: int, tokens: list[int]) -> None:
        calls.append(row)
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        model.generate(cross_kvs, max_new_tokens=20, callbacks={"on_tokens": on_tokens})
    assert calls == [0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_beams": 0}, "num_beams"),
        ({"num_beams": 3, "num_return_sequences": 4}, "num_return_sequences"),
        ({"num_return_sequences": 0}, "num_return_sequences"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"min_new_tokens": -1}, "min_new_tokens"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"length_penalty": math.nan}, "length_penalty"),
        ({"forced_bos_token_id": 64}, "forced_bos_token_id"),
        ({"forced_eos_token_id": -2}, "forced_eos_token_id"),
        ({"suppress_tokens": (3, 64)}, "suppress_tokens"),
        ({"bad_words_ids": ((3,), ())}, "bad_words_lens"),
        ({"bad_words_ids": ((3, -1),)}, "bad_words_ids"),
    ],
)
def test_a_wrong_option_is_refused_by_name(
    model: TinyModel, cross_kvs: list[Floats], wrong: dict[str, Any], message: str
):
    options = GenerationDefaults.from_keys(model.spec.keys)
    with model.decoder.session(1, 3, cross_kvs[0].shape[3], 128) as session:
        session.set_source(0, cross_kvs[0])
        expected = session.generate(options)
        with pytest.raises(ValueError, match=message):
            session.generate(replace(options, **wrong))
        assert session.generate(options) == expected, "the session is as it was"
