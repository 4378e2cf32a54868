"""P(good answer) from what decoding tells, fitted to valid rows and judged on rows left out.

An answer is good if its score is at least the median of all. A logistic regression over `confidence.FEATURES`
is fitted to four fifths of the rows and asked about the last fifth, in turn, so that no row judges itself;
Platt's two numbers are fitted to these answers. A careful one knows draws, too. Reported against the
mean log-probability, regressions over lengths alone, over lengths and the prefix, and over lengths and the
data set, which no device is told, and chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_s2s.confidence import DRAWN_FEATURES, FEATURES, Calibration, Features

Floats = NDArray[np.float64]

N_FOLDS = 5
MIN_ROWS = 40  # fewer say nothing
RIDGE = 1.0  # weight of the squared coefficients
SENT_SHARE = 0.2  # of answers that are below the threshold
N_BINS = 10  # of equally many rows, for the calibration error
# Of many features those that token probabilities tell in other words than draws do only add noise here.
CAREFUL_FEATURES = (
    "logprob_mean", "log_source_tokens", "compression", "copied_words", "copied_pairs", *DRAWN_FEATURES,
)  # fmt: skip
_LENGTHS = ("log_tokens", "log_source_tokens", "compression")
_N_NEWTON_STEPS = 30


@dataclass(frozen=True)
class Method:
    """How well a number orders answers by their quality."""

    auroc: float  # probability that a good answer has more of it than a bad one
    aurc: float  # mean risk over all coverages; risk is 1 - score / 100 of the answers kept
    auroc_of_set: Mapping[str, float]  # within one data set


@dataclass(frozen=True)
class Confidence:
    """What is stored, and how good it is on rows that it was not fitted to."""

    calibrations: tuple[Calibration, ...]  # the free one, and the careful one if there are draws
    methods: Mapping[str, Method]
    ece: Mapping[str, float]  # mean difference of P(good) and the share of good answers, over `N_BINS`
    coverage: Mapping[str, list[float]]  # method -> risk at coverage 5 %, 10 %, ..., 100 %
    orders: Mapping[str, Floats]  # method -> [n], the higher, the better it holds an answer for


def calibrate(
    values: Sequence[Features],
    scores: Floats,
    sets: Sequence[str],
    prefixes: Sequence[str],
    *,
    metric: str,
    n_draws: int = 0,
) -> Confidence | None:
    """Fits P(score >= median). `scores` [n], in points, `sets` and `prefixes` belong to the rows of `values`.

    None if there are fewer than `MIN_ROWS` or all are equally good. With `n_draws`, the number of draws that
    DRAWN_FEATURES are made of, a careful calibration is fitted, too.
    """
    median = float(np.median(scores))
    good = (scores >= median).astype(np.float64)
    if len(scores) < MIN_ROWS or good.mean() in (0, 1):
        return None
    folds = np.random.default_rng(0).permutation(len(scores)) % N_FOLDS
    kinds = {"learned": 0, "careful": n_draws} if n_draws else {"learned": 0}
    fits = {name: _fit(values, good, folds, f"{metric} >= {median:.4g}", n) for name, n in kinds.items()}
    lengths = _columns(values, _LENGTHS)

    def lengths_and(kinds: Sequence[str]) -> Floats:
        one_hot = (np.array(kinds) == kind for kind in sorted({*kinds}))
        return _cross_fitted(np.column_stack([lengths, *one_hot]), good, folds)

    orders = {
        **{name: fit.logits for name, fit in fits.items()},
        "mean log-probability": _columns(values, ["logprob_mean"])[:, 0],
        "length": _cross_fitted(lengths, good, folds),
        "length and prefix": lengths_and(prefixes),
        "length and set": lengths_and(sets),
        "random": np.random.default_rng(1).random(len(scores)),
        "oracle": scores,
    }
    return Confidence(
        tuple(fit.calibration for fit in fits.values()),
        {name: _judge(order, scores, good, np.array(sets)) for name, order in orders.items()},
        {name: fit.ece for name, fit in fits.items()},
        {name: _short_list(risk_at_coverage(order, scores)) for name, order in orders.items()},
        orders,
    )


@dataclass(frozen=True)
class _Fit:
    """A calibration, and what its like say to rows that they were not fitted to."""

    calibration: Calibration
    logits: Floats
    ece: float


def _fit(
    values: Sequence[Features], good: Floats, folds: NDArray[np.intp], said_good: str, n_draws: int
) -> _Fit:
    names = CAREFUL_FEATURES if n_draws else FEATURES
    columns = _columns(values, names)
    logits = _cross_fitted(columns, good, folds)
    probabilities = _cross_fitted(logits[:, None], good, folds, ridge=0.0, as_probability=True)
    mean, scale = columns.mean(0), _scale(columns)
    weights, bias = fit_logistic((columns - mean) / scale, good)
    [slope], offset = fit_logistic(logits[:, None], good, ridge=0.0)
    calibration = Calibration(
        good=said_good,
        n_documents=len(good),
        features=names,
        mean=_tuple(mean),
        scale=_tuple(scale),
        weights=_tuple(weights),
        bias=_short(bias),
        slope=_short(slope),
        offset=_short(offset),
        threshold=_short(float(np.quantile(sigmoid(slope * logits + offset), SENT_SHARE))),
        n_draws=n_draws,
    )
    return _Fit(calibration, logits, calibration_error(probabilities, good))


def fit_logistic(x: Floats, y: Floats, *, ridge: float = RIDGE) -> tuple[Floats, float]:
    """Weights [k] and bias of P(y = 1) = sigmoid(x . weights + bias) for x [n, k], by Newton's method."""
    inputs = np.column_stack([x, np.ones(len(x))])
    penalty = np.diag([ridge] * x.shape[1] + [1e-9])
    weights = np.zeros(x.shape[1] + 1)
    for _ in range(_N_NEWTON_STEPS):
        p = sigmoid(inputs @ weights)
        gradient = inputs.T @ (p - y) + penalty @ weights
        curvature = (inputs * (p * (1 - p))[:, None]).T @ inputs + penalty + 1e-9 * np.eye(len(weights))
        weights = weights - np.linalg.solve(curvature, gradient)
    return weights[:-1], float(weights[-1])


def auroc(order: Floats, good: Floats) -> float:
    """Probability that a good one has a higher number than a bad one, half where they are equal."""
    positive, negative = order[good == 1], np.sort(order[good == 0])
    if not len(positive) or not len(negative):
        return float("nan")
    below, upto = (np.searchsorted(negative, positive, side) for side in ("left", "right"))
    return float((below + upto).mean() / 2 / len(negative))


def risk_at_coverage(order: Floats, scores: Floats) -> Floats:
    """Mean of 1 - score / 100 of the 5 %, 10 %, ..., 100 % of answers with the highest numbers, [20]."""
    risks = 1 - scores[np.argsort(-order, kind="stable")] / 100
    means = np.cumsum(risks) / np.arange(1, len(risks) + 1)
    chosen: Floats = means[[max(round(len(risks) * percent / 100), 1) - 1 for percent in range(5, 101, 5)]]
    return chosen


def calibration_error(probabilities: Floats, good: Floats) -> float:
    """Expected calibration error over bins of equally many rows."""
    bins = np.array_split(np.argsort(probabilities, kind="stable"), N_BINS)
    gaps = [abs(probabilities[rows].mean() - good[rows].mean()) * len(rows) for rows in bins if len(rows)]
    return float(sum(gaps) / len(good))


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    values: Floats = 1 / (1 + np.exp(-np.clip(x, -500, 500)))
    return values


def _cross_fitted(
    x: Floats, y: Floats, folds: NDArray[np.intp], *, ridge: float = RIDGE, as_probability: bool = False
) -> Floats:
    """For each row what the regression says that was fitted to the other folds."""
    found = np.zeros(len(y))
    for fold in range(N_FOLDS):
        rest, held_out = folds != fold, folds == fold
        mean, scale = x[rest].mean(0), _scale(x[rest])
        weights, bias = fit_logistic((x[rest] - mean) / scale, y[rest], ridge=ridge)
        logits = (x[held_out] - mean) / scale @ weights + bias
        found[held_out] = sigmoid(logits) if as_probability else logits
    return found


def _judge(order: Floats, scores: Floats, good: Floats, sets: NDArray[np.str_]) -> Method:
    risks = 1 - scores[np.argsort(-order, kind="stable")] / 100
    of_set = {}
    for name in sorted({*sets.tolist()}):
        rows = sets == name
        of_set[name] = auroc(order[rows], (scores[rows] >= np.median(scores[rows])).astype(np.float64))
    aurc = float((np.cumsum(risks) / np.arange(1, len(risks) + 1)).mean())
    return Method(auroc(order, good), aurc, of_set)


def _columns(values: Sequence[Features], names: Sequence[str]) -> Floats:
    return np.array([[row[name] for name in names] for row in values], np.float64)


def _scale(columns: Floats) -> Floats:
    """Standard deviations; 1 where a feature is always the same."""
    deviation = columns.std(0)
    return np.where(deviation > 1e-6, deviation, 1.0)


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _tuple(values: Floats) -> tuple[float, ...]:
    return tuple(_short(value) for value in values)


def _short_list(values: Floats) -> list[float]:
    return [_short(value) for value in values]
