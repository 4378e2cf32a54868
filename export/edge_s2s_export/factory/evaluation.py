"""How good outputs are: BLEU, ROUGE and what they say without their source, with intervals over rows.

BLEU is sacrebleu's (13a, mixed case, all references of a row), ROUGE is rouge-score's F with stemmer, mean
over references unless it says max. All are in points, 0 to 100. Intervals hold 95 % of 10,000 resamples of
rows; a paired one resamples the rows of both systems together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from edge_s2s.faithfulness import Evidence, find_loop

Floats = NDArray[np.float64]

ROUGES = ("rouge1", "rouge2", "rougeL")
MAX_ORDER = 4
N_RESAMPLES = 10_000
_NOTHING = Evidence("")  # to which every number and name is new


class Interval(NamedTuple):
    """A value and where 95 % of its resamples are."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class RowScores:
    """What each row adds to a system's scores.

    `bleu`: [n_rows, 10], lengths of output and closest reference, then n-grams of order 1 to 4 that match and
    that there are. `rouge`: name -> [n_rows], mean over references; `rouge_max`: the best reference's.
    """

    bleu: Floats
    rouge: Mapping[str, Floats]
    rouge_max: Mapping[str, Floats]

    @property
    def n_rows(self) -> int:
        """Rows of the set."""
        return len(self.bleu)

    def values(self, metric: str, counts: Floats) -> Floats:
        """The metric of each resample; `counts` [n_resamples, n_rows] says how often it has each row."""
        if metric == "bleu":
            return _bleu(counts @ self.bleu)
        means: Floats = counts @ self.rouge[metric] / counts.sum(1)
        return means

    def value(self, metric: str) -> float:
        """The metric over all rows."""
        return float(self.values(metric, np.ones((1, self.n_rows)))[0])


def score_rows(targets: Sequence[Sequence[str]], outputs: Sequence[str]) -> RowScores:
    """Scores of each output against all references of its row."""
    scorer = RougeScorer([*ROUGES], use_stemmer=True)
    counter = BLEU(effective_order=True)
    bleu = np.zeros((len(outputs), 2 + 2 * MAX_ORDER))
    mean = {name: np.zeros(len(outputs)) for name in ROUGES}
    best = {name: np.zeros(len(outputs)) for name in ROUGES}
    for row, (references, output) in enumerate(zip(targets, outputs, strict=True)):
        counted = counter.sentence_score(output, [*references])
        bleu[row] = [counted.sys_len, counted.ref_len, *counted.counts, *counted.totals]
        scores = [scorer.score(reference, output) for reference in references]
        for name in ROUGES:
            values = [100 * score[name].fmeasure for score in scores]
            mean[name][row], best[name][row] = np.mean(values), np.max(values)
    return RowScores(bleu, mean, best)


def interval(scores: RowScores, metric: str) -> Interval:
    """A metric over all rows."""
    return _interval(scores.value(metric), scores.values(metric, resamples(scores.n_rows)))


def paired_change(before: RowScores, after: RowScores, metric: str) -> Interval:
    """How much `after` is above `before` on the same rows."""
    counts = resamples(before.n_rows)
    changes = after.values(metric, counts) - before.values(metric, counts)
    return _interval(after.value(metric) - before.value(metric), changes)


@lru_cache(maxsize=2)
def resamples(n_rows: int) -> Floats:
    """How often each resample has each row, [N_RESAMPLES, n_rows]; always the same."""
    draw = np.random.default_rng(0)
    return draw.multinomial(n_rows, np.full(n_rows, 1 / n_rows), N_RESAMPLES).astype(np.float64)


def _interval(value: float, samples: Floats) -> Interval:
    low, high = np.percentile(samples, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def _bleu(sums: Floats) -> Floats:
    """Of summed counts [n, 10]. An order without a match counts half a match, the next a quarter (NIST)."""
    output_len, reference_len = sums[:, 0], sums[:, 1]
    matches, totals = sums[:, 2 : 2 + MAX_ORDER], sums[:, 2 + MAX_ORDER :]
    none = (matches == 0) & (totals > 0)
    matches = np.where(none, 0.5 ** np.cumsum(none, axis=1), matches)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(matches / totals).mean(axis=1)
        penalty = np.minimum(1 - reference_len / output_len, 0)
        scores: Floats = 100 * np.exp(logs + penalty)
    return np.where(totals[:, -1] > 0, scores, 0.0)


@dataclass(frozen=True)
class Faithfulness:
    """What outputs say that their sources do not; shares are of names, of numbers, and of outputs."""

    names_per_output: float
    unsupported_names: float
    numbers_per_output: float
    unsupported_numbers: float
    loops: float


def faithfulness(sources: Sequence[str], outputs: Sequence[str]) -> Faithfulness:
    """Over all pairs; `edge_s2s.faithfulness` says what a name, a number and a loop is."""
    n_names = n_new_names = n_numbers = n_new_numbers = n_loops = 0
    for source, output in zip(sources, outputs, strict=True):
        evidence = Evidence(source)
        n_names += len(_NOTHING.new_names(output))
        n_new_names += len(evidence.new_names(output))
        n_numbers += len(_NOTHING.new_numbers(output))
        n_new_numbers += len(evidence.new_numbers(output))
        n_loops += find_loop(output) is not None
    n = max(len(outputs), 1)
    return Faithfulness(
        n_names / n,
        n_new_names / max(n_names, 1),
        n_numbers / n,
        n_new_numbers / max(n_numbers, 1),
        n_loops / n,
    )


def length_ratio(targets: Sequence[Sequence[str]], outputs: Sequence[str]) -> float:
    """Words of the outputs / words of the references."""
    n_words = sum(len(output.split()) for output in outputs)
    expected = sum(float(np.mean([len(target.split()) for target in row])) for row in targets)
    return n_words / max(expected, 1e-9)


def chrf(targets: Sequence[Sequence[str]], outputs: Sequence[str]) -> float:
    """sacrebleu's chrF2 over all rows, best reference of each."""
    n_references = max(map(len, targets))
    streams = [[row[i] if i < len(row) else None for row in targets] for i in range(n_references)]
    return float(CHRF().corpus_score([*outputs], streams).score)
