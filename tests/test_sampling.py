"""Sampling: its distribution is that of transformers' warpers, and its randomness is that of the seed."""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edge_s2s import GenerationOptions, Seq2SeqModel
from edge_s2s.decoder import DecoderModel, Floats, Hypothesis, supported_isas
from edge_s2s.manifest import GenerationDefaults
from edge_s2s.weights import write_weights
from edge_s2s_export.probe_texts import probe_texts
from tiny_models import TinyModel, random_t5

N_DRAWS = 20_000
RELEASE_DRAWS = 100_000
REPORT = Path(__file__).parent.parent / "reports" / "sampling.json"
DRAWS_PER_SOURCE = 250
SOURCE = [5, 9, 30, 11]
MIN_P_VALUE = 0.001
OPTION_SETS: dict[str, dict[str, Any]] = {
    "plain": {},
    "top_k of transformers": {"top_k": 50},
    "temperature": {"temperature": 2.5},
    "top_k": {"top_k": 6, "temperature": 2.0},
    "top_p": {"top_p": 0.8, "temperature": 3.0},
    "min_p": {"min_p": 0.05, "temperature": 3.0},
    "typical_p": {"typical_p": 0.6, "temperature": 3.0},
    "all, after rules": {
        "temperature": 4.0,
        "top_k": 30,
        "top_p": 0.95,
        "min_p": 0.02,
        "typical_p": 0.9,
        "forced_bos_token_id": 7,
        "repetition_penalty": 1.5,
        "max_new_tokens": 2,
    },
}
ALL_OFF = {"do_sample": True, "top_k": 0, "max_new_tokens": 1}


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    return random_t5("t5-v1.1", 2)


def draw(model: TinyModel, cross_kv: Floats, n_draws: int, seed: int, **options: Any) -> list[Hypothesis]:
    """So many draws of one source: a batch of it with consecutive seeds, DRAWS_PER_SOURCE each."""
    n_sources = n_draws // DRAWS_PER_SOURCE
    seeds = range(seed, seed + n_sources)
    drawn = model.generate(
        [cross_kv] * n_sources,
        callbacks={"seeds": seeds},
        num_return_sequences=DRAWS_PER_SOURCE,
        **{**ALL_OFF, **options},
    )
    return [hypothesis for source in drawn for hypothesis in source]


def transformers_probabilities(
    model: TinyModel, source: Sequence[int] = SOURCE, **options: Any
) -> npt.NDArray[np.float64]:
    """float64 [vocab_size] of the last new token, after all of transformers' processors and warpers."""
    options = {**ALL_OFF, **options}
    ids = torch.tensor([source])
    out = model.hf.generate(ids, output_scores=True, return_dict_in_generate=True, **options)
    return out.scores[-1][0].double().softmax(dim=-1).numpy()


def p_value(counts: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]) -> float:
    """Of a chi-square test; tokens expected fewer than 5 times are one bin."""
    expected = probabilities * counts.sum()
    rare = expected < 5
    observed, expected = (
        np.array([*values[~rare], *([values[rare].sum()] if expected[rare].sum() > 5 else [])])
        for values in (counts, expected)
    )
    statistic = ((observed - expected) ** 2 / expected).sum()
    degrees = torch.tensor((len(expected) - 1) / 2).double()
    return float(torch.special.gammaincc(degrees, torch.tensor(statistic / 2).double()))


def check_distribution(tiny: TinyModel, name: str, n_draws: int) -> float:
    """The p-value of a chi-square test of so many draws."""
    expected = transformers_probabilities(tiny, **OPTION_SETS[name])
    last = [h.token_ids[-1] for h in draw(tiny, tiny.cross_kv(SOURCE), n_draws, 0, **OPTION_SETS[name])]
    counts = np.bincount(last, minlength=len(expected))
    assert counts.sum() == n_draws
    assert not counts[expected == 0].any(), "a token that transformers never draws"
    assert (expected * n_draws >= 5).sum() >= 3, "a distribution worth testing"
    p = p_value(counts, expected)
    assert p > MIN_P_VALUE
    return p


@pytest.mark.parametrize("name", OPTION_SETS)
def test_draws_are_distributed_as_in_transformers(tiny: TinyModel, name: str):
    check_distribution(tiny, name, N_DRAWS)


@pytest.mark.release
def test_many_draws_are_distributed_as_in_transformers(tiny: TinyModel):
    report = {name: check_distribution(tiny, name, RELEASE_DRAWS) for name in OPTION_SETS}
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(
        json.dumps({"draws": RELEASE_DRAWS, "p_values": report}, indent=1) + "\n", encoding="utf-8"
    )


def test_the_chi_square_test_notices_a_wrong_temperature(tiny: TinyModel):
    last = [h.token_ids[-1] for h in draw(tiny, tiny.cross_kv(SOURCE), N_DRAWS, 0, temperature=2.5)]
    wrong = transformers_probabilities(tiny, temperature=2.2)
    assert p_value(np.bincount(last, minlength=len(wrong)), wrong) < 1e-6


def test_warpers_keep_what_transformers_keeps(tiny: TinyModel):
    rng = np.random.default_rng(3)
    cross_kv = tiny.cross_kv(SOURCE)
    for _ in range(20):
        options: dict[str, Any] = {
            "temperature": float(rng.uniform(0.5, 4)),
            "top_k": int(rng.choice([0, 1, 3, 20, 64, 100])),
            "top_p": float(rng.choice([1.0, rng.uniform(0, 1)])),
            "min_p": float(rng.choice([0, rng.uniform(0, 0.5)])),
            "typical_p": float(rng.choice([1.0, rng.uniform(0.05, 0.99)])),
        }
        expected = transformers_probabilities(tiny, **options)
        drawn = {h.token_ids[0] for h in draw(tiny, cross_kv, 2500, 1, **options)}
        assert drawn <= set(np.flatnonzero(expected))
        assert drawn >= set(np.flatnonzero(expected > 0.01)), "missed with probability 1e-11"


def test_with_top_k_1_sampling_is_greedy_search(tiny: TinyModel):
    cross_kvs = [tiny.cross_kv(ids) for ids in (SOURCE, [2], list(range(20, 44)))]
    for rules in ({}, {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2}):
        greedy = tiny.generate(cross_kvs, max_new_tokens=20, **rules)
        assert tiny.generate(cross_kvs, max_new_tokens=20, do_sample=True, top_k=1, **rules) == greedy


def test_beam_search_draws_without_replacement():
    """With one new token: 2 of the best 5, in any order, whose probability a formula gives."""
    model = random_t5("t5-untied", 4, vocab_size=12)
    probabilities = transformers_probabilities(model, (3, 4, 5, 9), top_k=5, temperature=2.0)
    pairs = list(itertools.combinations(np.flatnonzero(probabilities), 2))
    expected = np.array(
        [
            p * q / (1 - p) + q * p / (1 - q)
            for p, q in ((probabilities[a], probabilities[b]) for a, b in pairs)
        ]
    )
    assert len(pairs) == 10
    assert expected.sum() == pytest.approx(1)
    options = {"num_beams": 2, "num_return_sequences": 2, "top_k": 5, "temperature": 2.0}
    cross_kv = model.cross_kv([3, 4, 5, 9])
    counts: Counter[tuple[int, ...]] = Counter()
    for start in range(0, 20_000, 1000):
        found = model.generate(
            [cross_kv] * 1000, callbacks={"seeds": range(start, start + 1000)}, **{**ALL_OFF, **options}
        )
        for best, second in found:
            assert best.score >= second.score
            counts[tuple(sorted((*best.token_ids, *second.token_ids)))] += 1
    assert set(counts) <= set(pairs)
    assert p_value(np.array([counts[pair] for pair in pairs]), expected) > MIN_P_VALUE


SEARCHES = {
    "sampling": {"num_return_sequences": 3},
    "all warpers": {"temperature": 1.7, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.95},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "temperature": 2.0},
}


@pytest.mark.parametrize("search", SEARCHES)
def test_tokens_depend_on_the_seed_but_not_on_cpu_threads_and_neighbours(tiny: TinyModel, search: str):
    sources = [SOURCE, [2], list(range(20, 44)), [7, 7, 8]]
    cross_kvs = [tiny.cross_kv(ids) for ids in sources]
    options = {"do_sample": True, "max_new_tokens": 12, **SEARCHES[search]}
    seeds = [3, 1 << 63, 0, 3]
    expected = tiny.generate(cross_kvs, callbacks={"seeds": seeds}, **options)
    for row, cross_kv in enumerate(cross_kvs):
        [alone] = tiny.generate([cross_kv], callbacks={"seeds": seeds[row : row + 1]}, **options)
        assert alone == expected[row]
    weights = write_weights(tiny.spec.keys, tiny.spec.tensors)
    for isa, num_threads in itertools.product(supported_isas(), (1, 2, 4)):
        other = TinyModel(tiny.hf, tiny.spec, DecoderModel(weights, isa=isa, num_threads=num_threads))
        assert other.generate(cross_kvs, callbacks={"seeds": seeds}, **options) == expected
    changed = tiny.generate(cross_kvs, callbacks={"seeds": [4, 5, 6, 7]}, **options)
    assert all(a != b for a, b in zip(changed, expected, strict=True))


def test_the_first_draw_is_the_same_however_many_there_are(tiny: TinyModel):
    cross_kvs = [tiny.cross_kv(SOURCE), tiny.cross_kv([2])]
    options = {"do_sample": True, "max_new_tokens": 12, "callbacks": {"seeds": [5, 6]}}
    many = tiny.generate(cross_kvs, num_return_sequences=40, **options)
    for n in (1, 2, 7):
        few = tiny.generate(cross_kvs, num_return_sequences=n, **options)
        assert few == [draws[:n] for draws in many]
    assert len({h.token_ids for h in many[0]}) >= 10


def test_scores_of_draws_are_those_of_their_tokens(tiny: TinyModel):
    options = {"do_sample": True, "max_new_tokens": 12, "num_return_sequences": 20, "length_penalty": 1.5}
    for h in tiny.generate([tiny.cross_kv(SOURCE)], **options)[0]:
        assert h.score == pytest.approx(sum(h.token_logprobs) / len(h.token_ids) ** 1.5, abs=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_return_sequences": 5}, "num_return_sequences"),
        ({"num_return_sequences": 2, "do_sample": False}, "num_return_sequences"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"typical_p": 0.0}, "typical_p"),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}, "num_beam_groups"),
        ({"num_beams": 4, "num_beam_groups": 3, "do_sample": False}, "divisor"),
        ({"num_beams": 4, "num_beam_groups": 2, "do_sample": False}, "diversity_penalty"),
    ],
)
def test_the_core_refuses_a_wrong_option_by_name(tiny: TinyModel, wrong: dict[str, Any], message: str):
    cross_kv = tiny.cross_kv(SOURCE)
    params = GenerationDefaults.from_keys(tiny.spec.keys, **{"do_sample": True, **wrong})
    with tiny.decoder.session(1, 4, cross_kv.shape[3], 128) as session:
        session.set_source(0, cross_kv)
        with pytest.raises(ValueError, match=message):
            session.generate(params)


# The public API.

TEXTS = probe_texts(3)


def sample(seed: int | None = None) -> GenerationOptions:
    return GenerationOptions(do_sample=True, seed=seed, num_beams=1, max_new_tokens=12, temperature=1.5)


def test_a_result_depends_on_text_options_and_seed_alone(float_model: Seq2SeqModel):
    together = float_model.generate(TEXTS, sample(7))
    assert [g.seed for [g] in together] == [7, 7, 7]
    for text, [generation] in zip(TEXTS, together, strict=True):
        [[alone]] = float_model.generate([text], sample(7))
        assert (alone.token_ids, alone.score) == (generation.token_ids, generation.score)
    one_by_one = float_model.generate(TEXTS, sample(7), batch_size=1)
    assert [g.text for [g] in one_by_one] == [g.text for [g] in together]
    assert "".join(float_model.stream(TEXTS[0], sample(7))) == together[0][0].text
    assert [g.text for [g] in float_model.generate(TEXTS, sample(8))] != [g.text for [g] in together]


def test_without_a_seed_every_source_has_its_own_and_reports_it(float_model: Seq2SeqModel):
    found = [generation for [generation] in float_model.generate([TEXTS[0]] * 6, sample())]
    assert len({generation.seed for generation in found}) == 6
    assert len({generation.token_ids for generation in found}) > 1
    for generation in found:
        assert (
            float_model.generate([TEXTS[0]], sample(generation.seed))[0][0].token_ids == generation.token_ids
        )


def test_several_draws_of_a_source_share_its_seed_and_differ(float_model: Seq2SeqModel):
    options = dataclasses.replace(sample(), num_return_sequences=8)
    [found] = float_model.generate([TEXTS[0]], options)
    assert len({generation.seed for generation in found}) == 1
    assert len({generation.token_ids for generation in found}) > 4


def test_where_nothing_is_drawn_there_is_no_seed(float_model: Seq2SeqModel):
    [[generation]] = float_model.generate([TEXTS[0]], GenerationOptions(num_beams=1, seed=3))
    assert generation.seed is None


def test_greedy_search_has_one_result(float_model: Seq2SeqModel):
    with pytest.raises(ValueError, match="num_return_sequences is 2 but num_beams is 1"):
        float_model.generate([TEXTS[0]], GenerationOptions(num_beams=1, num_return_sequences=2))
