"""Scores are sacrebleu's and rouge-score's; intervals are those of a plain bootstrap."""

import random

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from edge_s2s_export.factory.baselines import baselines, lead, shuffled
from edge_s2s_export.factory.evaluation import (
    N_RESAMPLES,
    chrf,
    faithfulness,
    interval,
    length_ratio,
    paired_change,
    resamples,
    score_rows,
)
from edge_s2s_export.probe_texts import probe_texts


def noisy(text: str, seed: int, share: float) -> str:
    draw = random.Random(seed)
    return " ".join(word for word in text.split() if draw.random() > share) or "nothing"


TEXTS = probe_texts(40)
TARGETS = [[text, noisy(text, i, 0.3)][: 1 + i % 2] for i, text in enumerate(TEXTS)]
GOOD = [noisy(text, 100 + i, 0.2) for i, text in enumerate(TEXTS)]
BAD = [noisy(text, 200 + i, 0.4) for i, text in enumerate(GOOD)]


@pytest.mark.parametrize("outputs", [GOOD, BAD, TEXTS])
def test_bleu_and_chrf_are_those_of_sacrebleu(outputs: list[str]):
    streams = [[row[i] if i < len(row) else None for row in TARGETS] for i in range(2)]
    expected = sacrebleu.corpus_bleu(outputs, streams).score
    assert score_rows(TARGETS, outputs).value("bleu") == pytest.approx(expected, abs=1e-9)
    assert chrf(TARGETS, outputs) == pytest.approx(sacrebleu.corpus_chrf(outputs, streams).score)


def test_bleu_without_a_match_of_an_order_is_smoothed_as_by_sacrebleu():
    targets, outputs = [["one two three four five six"]], ["one two nothing four new six"]
    expected = sacrebleu.corpus_bleu(outputs, [[targets[0][0]]]).score
    assert 0 < expected < 20
    assert score_rows(targets, outputs).value("bleu") == pytest.approx(expected, abs=1e-9)


def test_rouge_is_the_mean_or_the_best_over_references():
    scorer = RougeScorer(["rouge2"], use_stemmer=True)
    scores = score_rows(TARGETS, GOOD)
    for row in (0, 1):
        each = [100 * scorer.score(target, GOOD[row])["rouge2"].fmeasure for target in TARGETS[row]]
        assert scores.rouge["rouge2"][row] == pytest.approx(np.mean(each))
        assert scores.rouge_max["rouge2"][row] == pytest.approx(max(each))
    assert scores.value("rouge2") == pytest.approx(scores.rouge["rouge2"].mean())


def test_an_interval_is_that_of_a_plain_bootstrap():
    scores = score_rows(TARGETS, GOOD)
    draw = np.random.default_rng(5)
    plain = [scores.rouge["rouge1"][draw.integers(0, 40, 40)].mean() for _ in range(N_RESAMPLES)]
    low, high = np.percentile(plain, [2.5, 97.5])
    found = interval(scores, "rouge1")
    assert found.low == pytest.approx(low, abs=0.3)  # 3 standard errors of a percentile of 10,000
    assert found.high == pytest.approx(high, abs=0.3)


def test_a_resampled_bleu_is_that_of_the_resampled_rows():
    scores = score_rows(TARGETS, GOOD)
    counts = resamples(40)[:3]
    for row, value in zip(counts, scores.values("bleu", counts), strict=True):
        chosen = [i for i, count in enumerate(row) for _ in range(int(count))]
        again = score_rows([TARGETS[i] for i in chosen], [GOOD[i] for i in chosen])
        assert value == pytest.approx(again.value("bleu"), abs=1e-9)


@pytest.mark.parametrize("metric", ["bleu", "rouge1", "rougeL"])
def test_a_paired_change_is_narrower_than_two_intervals_and_has_a_sign(metric: str):
    good, bad = score_rows(TARGETS, GOOD), score_rows(TARGETS, BAD)
    change = paired_change(bad, good, metric)
    assert change.value == pytest.approx(good.value(metric) - bad.value(metric))
    assert 0 < change.low < change.value < change.high
    widths = [(found.high - found.low) ** 2 for found in (interval(good, metric), interval(bad, metric))]
    assert (change.high - change.low) ** 2 < sum(widths)
    assert paired_change(good, good, metric) == (0, 0, 0)


def test_names_numbers_and_loops_are_counted_as_shares():
    sources = ["Anna: I pay 20 dollars, Ben.", "Anna: Hello."]
    outputs = ["So Anna and Carla pay 20 or 30 dollars.", "he said he said he said he said he said"]
    found = faithfulness(sources, outputs)
    assert (found.names_per_output, found.unsupported_names) == (1, 0.5)
    assert (found.numbers_per_output, found.unsupported_numbers) == (1, 0.5)
    assert found.loops == 0.5
    assert faithfulness([], []).loops == 0


def test_the_length_ratio_counts_words_against_the_mean_reference():
    assert length_ratio([["a b", "a b c d"], ["a"]], ["a b c", "a"]) == 1
    assert length_ratio([["a b"]], [""]) == 0


def test_lead_takes_lines_of_a_dialogue_and_sentences_of_a_text():
    assert lead("A: Hi. Ho.\nB: Yes.\n\nA: No.", 2) == "A: Hi. Ho. B: Yes."
    assert lead("One. Two! Three? Four.", 3) == "One. Two! Three?"


def test_no_shuffled_output_stays_in_its_place():
    outputs = [str(i) for i in range(9)]
    moved = shuffled(outputs)
    assert sorted(moved) == outputs
    assert all(a != b for a, b in zip(outputs, moved, strict=True))


def test_a_template_is_a_baseline_only_where_there_is_one():
    assert "template" not in baselines(["a", "b"], ["x", "y"], "")
    assert baselines(["a", "b"], ["x", "y"], "Same.")["template"] == ["Same."] * 2
