"""Prompt lookup changes nothing but the number of steps."""

import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import edge_s2s
from edge_s2s import GenerationOptions
from edge_s2s.decoder import Cancellation, Floats, Ints, LogitsProcessor
from edge_s2s.manifest import GenerationDefaults
from tiny_models import EOS, FAMILY_KINDS, TinyModel, random_model, random_t5, with_float16_cache

N_RUNS = 400
RULES: dict[str, Any] = {
    "no_repeat_ngram_size": 3,
    "repetition_penalty": 1.3,
    "min_new_tokens": 9,
    "forced_eos_token_id": EOS,
    "encoder_repetition_penalty": 1.4,
    "bad_words_ids": ((9,), (5, 6)),
}


def prefer(wanted: Sequence[int], strength: float) -> LogitsProcessor:
    """Makes tokens of a text likely where they follow the last one there."""

    def processor(tokens: Ints, scores: Floats) -> None:
        for last, following in itertools.pairwise(wanted):
            if last == tokens[0, -1]:
                scores[0, following] += strength

    return processor


@pytest.fixture(scope="module")
def models() -> list[TinyModel]:
    wide = [random_model(kinds[-1], seed) for seed, kinds in enumerate(FAMILY_KINDS.values())]
    return wide + [with_float16_cache(model) for model in wide]


def test_in_400_random_runs_of_ten_families_and_both_caches_nothing_changes(models: list[TinyModel]):
    rng = random.Random(3)
    n_tokens = n_kept = 0
    for _ in range(N_RUNS):
        model = rng.choice(models)
        ids = [rng.choice(model.plain_tokens) for _ in range(rng.randint(3, 12))]
        rules = rng.sample(list(RULES), rng.choice([0, 0, 1, 2]))
        options = {"max_new_tokens": rng.randint(1, 24)} | {name: RULES[name] for name in rules}
        prefix = ids[: rng.choice([0, 0, 3])]
        processor = rng.choice([None, prefer(ids, rng.choice([1.0, 30.0]))])
        streamed: list[list[int]] = []

        def run(
            n_draft: int,
            model: TinyModel = model,
            ids: list[int] = ids,
            prefix: list[int] = prefix,
            options: dict[str, Any] = options,
            processor: LogitsProcessor | None = processor,
            streamed: list[list[int]] = streamed,
        ) -> Any:
            joined: list[int] = []
            callbacks = {"on_tokens": lambda _row, tokens: joined.extend(tokens)}
            if processor is not None:
                callbacks["logits_processors"] = [processor]
            found = model.generate(
                [model.cross_kv(ids)], sources=[ids], prefixes=[prefix], callbacks=callbacks,
                prompt_lookup_num_tokens=n_draft, **options,
            )  # fmt: skip
            streamed.append(joined)
            return found

        plain = run(0)
        n_draft = rng.choice([1, 2, 5, 16])
        assert (
            run(n_draft) == plain
        )  # tokens, scores, log-probabilities and the reason to finish, in every bit
        assert streamed[0] == streamed[1] == list(plain[0][0].token_ids)
        n_tokens += len(plain[0][0].token_ids)
        n_kept += len({*plain[0][0].token_ids}) < len(plain[0][0].token_ids)
    assert n_tokens > 10 * N_RUNS / 2
    assert n_kept > N_RUNS / 4  # with repetitions, which are drafts that come true


def steps_of(n_draft: int, wanted: list[int], **callbacks: Any) -> tuple[int, list[int]]:
    """Decoder steps and tokens of a search that is made to repeat its source."""
    model = random_t5("t5", 0)
    params = GenerationDefaults.from_keys(
        model.spec.keys, max_new_tokens=len(wanted) - 1, prompt_lookup_num_tokens=n_draft
    )
    with model.decoder.session(1, 1, len(wanted), 64, max_draft_tokens=n_draft) as session:
        session.set_source(0, model.cross_kv(wanted), wanted)
        callbacks = {"logits_processors": [prefer(wanted, 1e4)], **callbacks}
        [[found]] = session.generate(params, prefixes=[wanted[:1]], **callbacks)
        return session.n_steps, list(found.token_ids)


def test_a_copied_source_takes_fewer_steps_than_tokens():
    wanted = [*range(10, 50)]
    assert steps_of(0, wanted) == (39, wanted[1:])
    n_steps, tokens = steps_of(16, wanted)
    assert tokens == wanted[1:]
    assert n_steps < 30  # eight drafts are read before anything is given up


def test_no_token_comes_after_a_cancel():
    wanted = [*range(10, 50)]
    cancellation = Cancellation()
    streamed: list[int] = []

    def stop(_row: int, tokens: list[int]) -> None:
        streamed.extend(tokens)
        if len(streamed) >= 9:
            cancellation.cancel()

    _, tokens = steps_of(16, wanted, on_tokens=stop, cancellation=cancellation)
    assert tokens == streamed == wanted[1 : 1 + len(tokens)]
    assert 9 <= len(tokens) < 9 + 17


def test_a_draft_that_the_session_has_no_room_for_is_refused():
    model = random_t5("t5", 0)
    params = GenerationDefaults.from_keys(model.spec.keys, prompt_lookup_num_tokens=3)
    with model.decoder.session(1, 1, 4, 200, max_draft_tokens=2) as session:
        session.set_source(0, model.cross_kv([5, 6, 7]), [5, 6, 7])
        with pytest.raises(ValueError, match="prompt_lookup_num_tokens: expected at most 2"):
            session.generate(params)
    with pytest.raises(ValueError, match="max_draft_tokens: expected"):
        model.decoder.session(1, 1, 4, 8, max_draft_tokens=17)


def test_the_default_model_says_the_same():
    model = edge_s2s.load()
    texts = ["#Person1#: The red car is mine.\n#Person2#: The red car is mine, not yours!", "Hello. Hello."]
    plain = model.generate(texts, GenerationOptions(max_new_tokens=40))
    ahead = model.generate(texts, GenerationOptions(max_new_tokens=40, prompt_lookup_num_tokens=8))
    beams = GenerationOptions(max_new_tokens=40, num_beams=3)
    beams_ahead = GenerationOptions(max_new_tokens=40, num_beams=3, prompt_lookup_num_tokens=8)
    for first, second in (
        (plain, ahead),
        (model.generate(texts, beams), model.generate(texts, beams_ahead)),
    ):
        for [one], [other] in zip(first, second, strict=True):
            assert one.token_ids == other.token_ids
            assert np.array_equal(one.token_logprobs, other.token_logprobs)
            assert (one.score, one.finish_reason) == (other.score, other.finish_reason)
