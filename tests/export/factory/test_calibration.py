"""The fit is that of plain gradient descent, its measures are their definitions, and the runtime reads it."""

from types import SimpleNamespace

import numpy as np
import pytest

from edge_s2s.confidence import DRAWN_FEATURES, FEATURES, Calibration
from edge_s2s_export.factory.calibration import (
    auroc,
    calibrate,
    calibration_error,
    fit_logistic,
    risk_at_coverage,
    sigmoid,
)

DRAW = np.random.default_rng(3)


def rows(n: int = 400) -> tuple[list[dict[str, float]], np.ndarray, list[str]]:
    """Scores that follow the mean log-probability and the number of new names, and noise."""
    x = DRAW.normal(size=(n, len(FEATURES)))
    x[:, FEATURES.index("is_repaired")] = 0  # always the same
    signal = x[:, FEATURES.index("logprob_mean")] - 1.5 * x[:, FEATURES.index("n_new_names")]
    scores = np.clip(50 + 10 * signal + 5 * DRAW.normal(size=n), 0, 100)
    return [dict(zip(FEATURES, row, strict=True)) for row in x.tolist()], scores, ["a", "b"] * (n // 2)


def test_newton_finds_what_gradient_descent_finds():
    x = DRAW.normal(size=(200, 3))
    y = (DRAW.random(200) < sigmoid(x @ [1.0, -2.0, 0.0] + 0.5)).astype(float)
    weights, bias = np.zeros(3), 0.0
    for _ in range(20_000):
        p = sigmoid(x @ weights + bias)
        weights = weights - 0.01 * (x.T @ (p - y) + weights)
        bias -= 0.01 * (p - y).sum()
    found, found_bias = fit_logistic(x, y, ridge=1.0)
    np.testing.assert_allclose(found, weights, atol=1e-6)
    assert found_bias == pytest.approx(bias, abs=1e-6)


def test_auroc_counts_pairs_and_halves_ties():
    order, good = DRAW.integers(0, 9, 60).astype(float), (DRAW.random(60) < 0.4).astype(float)
    pairs = [(a > b) + (a == b) / 2 for a in order[good == 1] for b in order[good == 0]]
    assert auroc(order, good) == pytest.approx(np.mean(pairs))
    assert auroc(good, good) == 1
    assert np.isnan(auroc(order, np.ones(60)))


def test_risk_falls_with_coverage_for_the_oracle_and_ends_at_the_mean():
    scores = DRAW.random(100) * 100
    risks = risk_at_coverage(scores, scores)
    assert (np.diff(risks) > 0).all()
    assert risks[-1] == pytest.approx(1 - scores.mean() / 100)
    assert risks[0] == pytest.approx(1 - np.sort(scores)[-5:].mean() / 100)


def test_the_calibration_error_of_true_probabilities_is_small_and_of_others_is_their_shift():
    p = DRAW.random(20_000)
    good = (DRAW.random(20_000) < p).astype(float)
    assert calibration_error(p, good) < 0.02
    assert calibration_error(np.full(20_000, 0.9), np.zeros(20_000)) == pytest.approx(0.9)


def test_it_orders_better_than_one_feature_and_lengths_and_chance():
    values, scores, sets = rows()
    found = calibrate(values, scores, sets, sets, metric="rougeL")
    assert found
    judged = {name: method.auroc for name, method in found.methods.items()}
    assert judged["oracle"] == 1
    assert judged["learned"] > 0.85 > judged["mean log-probability"] > 0.6
    assert abs(judged["random"] - 0.5) < 0.1
    assert abs(judged["length and set"] - 0.5) < 0.1
    assert set(found.methods["learned"].auroc_of_set) == {"a", "b"}
    assert found.methods["oracle"].aurc < found.methods["learned"].aurc < found.methods["random"].aurc
    assert found.ece["learned"] < 0.1


def test_baselines_that_are_told_a_prefix_or_a_set_know_no_more_than_that():
    values, scores, sets = rows()
    half = len(scores) // 2
    scores[::2] += 1000  # of set "a"
    same, apart = (
        calibrate(values, scores, sets, prefixes, metric="rougeL")
        for prefixes in (["x"] * 2 * half, ["x", "y"] * half)
    )
    assert same
    assert apart
    assert abs(same.methods["length and prefix"].auroc - 0.5) < 0.1
    assert apart.methods["length and prefix"].auroc > 0.99
    assert same.methods["length and set"].auroc > 0.99


def test_without_signal_it_is_no_better_than_chance_on_rows_left_out():
    values, scores, sets = rows()
    found = calibrate(values, DRAW.permutation(scores), sets, sets, metric="rougeL")
    assert found
    assert abs(found.methods["learned"].auroc - 0.5) < 0.1


def test_what_is_stored_is_what_the_runtime_computes():
    values, scores, sets = rows()
    found = calibrate(values, scores, sets, sets, metric="rougeL")
    assert found
    [stored] = found.calibrations
    assert stored.good == f"rougeL >= {np.median(scores):.4g}"
    said = np.array([stored.p_good(row) for row in values])
    assert auroc(said, (scores >= np.median(scores)).astype(float)) > 0.85
    assert (said < stored.threshold).mean() == pytest.approx(0.2, abs=0.05)
    manifest = SimpleNamespace(extensions=stored.to_extension())
    assert Calibration.of(manifest) == stored


def test_draws_that_tell_more_are_used_by_the_careful_one_alone():
    values, _, sets = rows()
    hidden = DRAW.normal(size=len(values))  # which only draws know of
    likely = np.array([row["logprob_mean"] for row in values])
    scores = np.clip(50 + 10 * (likely + hidden), 0, 100)
    for row, agree in zip(values, hidden, strict=True):
        row.update(zip(DRAWN_FEATURES, (agree, DRAW.normal()), strict=True))
    found = calibrate(values, scores, sets, sets, metric="rougeL", n_draws=16)
    assert found
    assert found.methods["careful"].auroc > found.methods["learned"].auroc + 0.05
    free, careful = found.calibrations
    assert (free.n_draws, careful.n_draws) == (0, 16)
    assert free == calibrate(values, scores, sets, sets, metric="rougeL").calibrations[0]  # type: ignore[union-attr]
    manifest = SimpleNamespace(extensions=free.to_extension() | careful.to_extension())
    assert Calibration.of(manifest) == free
    assert Calibration.of(manifest, careful=True) == careful


def test_too_few_rows_and_equal_scores_give_none():
    values, scores, sets = rows()
    assert calibrate(values[:30], scores[:30], sets[:30], sets[:30], metric="x") is None
    assert calibrate(values, np.full(400, 7.0), sets, sets, metric="x") is None
