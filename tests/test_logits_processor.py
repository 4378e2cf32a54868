"""A callback that changes scores: what transformers' own LogitsProcessor would do, and clean failures."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from edge_s2s import GenerationOptions, Seq2SeqModel
from edge_s2s.decoder import Floats, Ints
from tiny_models import EOS, random_t5

SOURCES = [[5, 9, 3], [7, 7, 8, 2, 40, 31], [33]]


def favour_multiples(input_ids: Ints, scores: Floats) -> None:
    """A rule that depends on history, its length and the token, and forbids some."""
    vocab_size = scores.shape[1]
    for ids, row in zip(input_ids, scores, strict=True):
        row += np.cos(np.arange(vocab_size) * (1 + int(ids.sum()) % 7) + len(ids)).astype(np.float32) * 3
        row[(ids[-1] + np.arange(2, 9)) % vocab_size] = -np.inf


class FavourMultiples(LogitsProcessor):  # type: ignore[misc]  # untyped
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        changed = scores.numpy().copy()
        favour_multiples(input_ids.numpy(), changed)
        return torch.from_numpy(changed)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1},
        {"num_beams": 3, "num_return_sequences": 3},
        {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "repetition_penalty": 1.5},
        {"num_beams": 2, "no_repeat_ngram_size": 2, "early_stopping": "never"},
    ],
    ids=str,
)
def test_a_processor_comes_after_the_rules_as_in_transformers(options: dict[str, object]):
    for seed in range(3):
        model = random_t5("t5", seed)
        ours = model.generate(
            [model.cross_kv(ids) for ids in SOURCES],
            callbacks={"logits_processors": [favour_multiples] * len(SOURCES)},
            max_new_tokens=10,
            **options,
        )
        for ids, hypotheses in zip(SOURCES, ours, strict=True):
            theirs = model.hf.generate(
                torch.tensor([ids]),
                do_sample=False,
                max_new_tokens=10,
                logits_processor=LogitsProcessorList([FavourMultiples()]),
                **options,
            )[:, 1:].tolist()
            expected = [row[: row.index(EOS) + 1] if EOS in row else row for row in theirs]
            assert [list(h.token_ids) for h in hypotheses] == expected


def test_a_processor_of_one_source_leaves_its_neighbours_alone():
    model = random_t5("t5", 1)
    cross_kvs = [model.cross_kv(ids) for ids in SOURCES]
    plain = model.generate(cross_kvs, num_beams=2)
    mixed = model.generate(
        cross_kvs, num_beams=2, callbacks={"logits_processors": [None, favour_multiples, None]}
    )
    assert [mixed[0], mixed[2]] == [plain[0], plain[2]]
    assert mixed[1] != plain[1]


def returning(scores: Callable[[Floats], object]) -> Callable[[Ints, Floats], object]:
    return lambda _input_ids, old: scores(old)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize(
    ("processor", "error", "message"),
    [
        (returning(lambda old: old * np.nan), ValueError, "numbers or -inf, found"),
        (returning(lambda old: old + np.inf), ValueError, "numbers or -inf, found inf for token 0"),
        (returning(lambda old: old[:, 1:]), ValueError, "expected scores"),
        (returning(lambda old: {}["missing"]), KeyError, "missing"),
    ],
)
def test_a_processor_that_fails_ends_generate_and_the_session_lives_on(
    num_beams: int, processor: object, error: type[Exception], message: str
):
    model = random_t5("t5", 1)
    cross_kvs = [model.cross_kv(ids) for ids in SOURCES]
    expected = model.generate(cross_kvs, num_beams=num_beams)
    params = {"num_beams": num_beams}
    with pytest.raises(error, match=message):
        model.generate(cross_kvs, **params, callbacks={"logits_processors": [None, processor, None]})
    assert model.generate(cross_kvs, **params) == expected


def test_a_processor_may_keep_what_it_gets_and_use_the_model(float_model: Seq2SeqModel):
    kept = []

    def look_and_generate(input_ids: Ints, scores: Floats) -> Floats:
        kept.append((input_ids, scores.copy(), scores))
        float_model.generate(["inside"], GenerationOptions(max_new_tokens=2))
        return scores + 0

    options = GenerationOptions(max_new_tokens=4)
    expected = [[g.token_ids for g in best] for best in float_model.generate(["one", "two"], options)]
    ours = float_model.generate(["one", "two"], options, logits_processor=look_and_generate)
    assert [[g.token_ids for g in best] for best in ours] == expected
    assert all(np.array_equal(before, after) for _, before, after in kept)
    assert kept[0][0].tolist() == [[0]]


def test_generate_refuses_processors_that_do_not_fit_the_texts(float_model: Seq2SeqModel):
    with pytest.raises(ValueError, match="logits_processor: expected one, or 2 as texts, found 1"):
        float_model.generate(["one", "two"], logits_processor=[None])
    with pytest.raises(TypeError, match="logits_processor: expected a function, found int"):
        float_model.generate(["one"], logits_processor=3)  # type: ignore[arg-type]
