"""How likely an answer is good enough, from what decoding tells for nothing, and from other answers.

    values = features(generation, Evidence(source).check(generation.text), source)
    Calibration.of(manifest).p_good(values)

A bundle brings a logistic regression over these features as its extension `calibration`; the exporter fits it
to documents that the model has not learned from. Without one there is a rule for the start. A second one,
`careful_calibration`, also looks at draws, answers that the model could have given: where they agree with the
one that it gave, that is more often good (https://arxiv.org/abs/2203.11171 votes so).
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Self, TypeAlias

from edge_s2s.documents import rouge_l
from edge_s2s.errors import BundleError
from edge_s2s.faithfulness import Evidence, Findings, words
from edge_s2s.generation import Generation
from edge_s2s.manifest import MANIFEST, Manifest
from edge_s2s.strict_json import OPTIONAL, build

Features: TypeAlias = Mapping[str, float]

EXTENSION, CAREFUL_EXTENSION = "calibration", "careful_calibration"
FEATURES = (
    "logprob_mean", "logprob_min", "logprob_q10", "logprob_q25", "logprob_q50",
    "n_below_0.1", "n_below_0.05", "log_tokens", "log_source_tokens", "compression",
    "copied_words", "copied_pairs", "n_new_numbers", "n_new_names", "is_loop", "is_complete", "is_repaired",
)  # fmt: skip
DRAWN_FEATURES = ("draws_agree", "draws_alike")
MAX_NUMBER = 1e6  # of a calibration
MAX_DRAWS = 64
# Options with which answers are drawn, whatever else a call wants: a calibration knows no other draws.
DRAW: dict[str, Any] = {
    "num_beams": 1, "num_beam_groups": 1, "diversity_penalty": 0.0, "prompt_lookup_num_tokens": 0,
    "do_sample": True, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0,
}  # fmt: skip
DRAW_SEED = 0
# The rule for the start, before a bundle has a calibration.
LOW_MEAN_LOGPROB = -1.0
MAX_UNLIKELY_TOKENS = 1  # of probability below 0.05


def features(generation: Generation, findings: Findings, source: str) -> dict[str, float] | None:
    """The value of each of FEATURES, and of DRAWN_FEATURES if there are draws.

    None for a text that was not decoded, as that of a long document.
    """
    logprobs = sorted(generation.token_logprobs)
    if not logprobs:
        return None
    n, n_source = len(logprobs), max(generation.stats.source_tokens, 1)
    said, given = words(generation.text), words(source)
    values = (
        sum(logprobs) / n,
        logprobs[0],
        *(logprobs[int(q * (n - 1))] for q in (0.1, 0.25, 0.5)),
        sum(logprob < math.log(0.1) for logprob in logprobs),
        sum(logprob < math.log(0.05) for logprob in logprobs),
        math.log(n),
        math.log(n_source),
        n / n_source,
        _share(said, given),
        _share([*pairwise(said)], [*pairwise(given)]),
        len(findings.numbers),
        len(findings.names),
        findings.loop is not None,
        generation.finish_reason == "eos",
        bool(generation.reasons),
    )
    found = dict(zip(FEATURES, map(float, values), strict=True))
    return found | _of_draws(said, [words(draw) for draw in generation.draws])


def _of_draws(said: Sequence[str], draws: Sequence[Sequence[str]]) -> dict[str, float]:
    """How far draws agree with what was said, by ROUGE-L, and how alike they are, by words in common."""
    if not draws:
        return {}
    bags = [frozenset(draw) for draw in draws]
    alike = [len(a & b) / max(len(a | b), 1) for a, b in combinations(bags, 2)] or [1.0]
    agree = [rouge_l(said, draw) for draw in draws]
    return dict(zip(DRAWN_FEATURES, (sum(agree) / len(agree), sum(alike) / len(alike)), strict=True))


def _share(items: Sequence[object], of: Sequence[object]) -> float:
    known = {*of}
    return sum(item in known for item in items) / max(len(items), 1)


def doubts(values: Features) -> list[str]:
    """The rule for the start: why an answer should rather come from a better model; none, if it need not."""
    found = {
        "low_probability": values["logprob_mean"] < LOW_MEAN_LOGPROB,
        "unlikely_tokens": values["n_below_0.05"] > MAX_UNLIKELY_TOKENS,
        "new_number": values["n_new_numbers"] > 0,
        "new_name": values["n_new_names"] > 0,
        "loop": values["is_loop"] > 0,
        "incomplete": not values["is_complete"],
    }
    return [reason for reason, is_so in found.items() if is_so]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """P(good) = sigmoid(slope * (weights . (x - mean) / scale + bias) + offset), x being some features.

    `slope` and `offset` are Platt's, fitted apart from the rest.
    """

    good: str
    """What was called good, such as "ROUGE-L >= 0.30" """
    n_documents: int
    """With which `slope`, `offset` and `threshold` were found"""
    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    slope: float
    offset: float
    threshold: float
    """P(good) below which 20 % of those documents were: answers that a better model should give"""
    n_draws: int = dataclasses.field(default=0, metadata=OPTIONAL)
    """Answers to draw for the features of DRAWN_FEATURES"""

    def __post_init__(self) -> None:
        """Raises BundleError for values that cannot be meant."""
        known = (*FEATURES, *DRAWN_FEATURES) if self.n_draws else FEATURES
        if unknown := [name for name in self.features if name not in known]:
            raise _refused("features", f"some of {', '.join(known)}", unknown[0])
        for name in ("mean", "scale", "weights"):
            if len(getattr(self, name)) != len(self.features):
                raise _refused(name, f"{len(self.features)} numbers", f"{len(getattr(self, name))}")
        numbers = (*self.mean, *self.scale, *self.weights, self.bias, self.slope, self.offset)
        if wrong := [number for number in numbers if not abs(number) <= MAX_NUMBER]:
            raise _refused("", f"numbers up to {MAX_NUMBER:g}", f"{wrong[0]}")
        if not min(self.scale, default=1) >= 1 / MAX_NUMBER:
            raise _refused("scale", f"numbers from {1 / MAX_NUMBER:g} on", f"{min(self.scale)}")
        if not 0 <= self.threshold <= 1:
            raise _refused("threshold", "0..1", f"{self.threshold}")
        if not 0 <= self.n_draws <= MAX_DRAWS:
            raise _refused("n_draws", f"0..{MAX_DRAWS}", f"{self.n_draws}")

    @classmethod
    def of(cls, manifest: Manifest, *, careful: bool = False) -> Self | None:
        """That of a bundle, or its careful one, if it has it; raises BundleError if that is wrong."""
        extension = CAREFUL_EXTENSION if careful else EXTENSION
        if (given := manifest.extensions.get(extension)) is None:
            return None
        calibration = build(cls, given, MANIFEST, f"extensions.{extension}")
        assert isinstance(calibration, cls)
        if careful != (calibration.n_draws > 0):
            raise _refused("n_draws", f"1..{MAX_DRAWS}" if careful else "0", f"{calibration.n_draws}")
        return calibration

    def to_extension(self) -> dict[str, object]:
        """What a manifest holds under `extensions`."""
        values: dict[str, object] = json.loads(json.dumps(dataclasses.asdict(self)))
        if not self.n_draws:
            del values["n_draws"]
        return {CAREFUL_EXTENSION if self.n_draws else EXTENSION: values}

    def p_good(self, values: Features) -> float:
        """Probability that an answer with these features is good."""
        columns = zip(self.features, self.mean, self.scale, self.weights, strict=True)
        logit = sum(weight * (values[name] - mean) / scale for name, mean, scale, weight in columns)
        exponent = self.slope * (logit + self.bias) + self.offset
        return 1 / (1 + math.exp(-min(max(exponent, -500), 500)))


def confidence(
    generation: Generation, source: str, evidence: Evidence, *calibrations: Calibration | None
) -> float | None:
    """P(good) of an answer to a source by the first calibration that can tell; None if none can."""
    values = features(generation, evidence.check(generation.text), source)
    for calibration in calibrations:
        if values and calibration and all(name in values for name in calibration.features):
            return calibration.p_good(values)
    return None


def _refused(key: str, expected: str, found: str) -> BundleError:
    where = ".".join(filter(None, ("extensions", EXTENSION, key)))
    return BundleError(MANIFEST, f"{where}: {expected}", found)
