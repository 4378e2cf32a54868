"""The checks between a measured model and its bundle: each a value, a limit and the reason for a refusal."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edge_s2s.bundle import open_bundle
from edge_s2s_export.candidate import Candidate
from edge_s2s_export.gates import kl_divergence

from .evaluation import Faithfulness, Interval, RowScores, paired_change
from .recipe import Recipe
from .slots import SlotErrors


class Gate(NamedTuple):
    """A value and what it must keep to."""

    name: str
    value: float
    limit: float
    is_least: bool  # the limit is the least value, else the largest

    @property
    def passes(self) -> bool:
        """Whether it does; NaN does not."""
        return self.value >= self.limit if self.is_least else self.value <= self.limit

    def __str__(self) -> str:
        side = "least" if self.is_least else "most"
        return f"{self.name}: expected at {side} {self.limit:g}, found {self.value:.4g}"


@dataclass(frozen=True)
class Agreement:
    """int8 against float32: over tokens of float32's outputs, and between outputs."""

    n_tokens: int
    argmax: float  # share of tokens after which both have the same best next one
    mean_kl: float  # nats
    high_kl: float  # 99th percentile
    sequences: float  # share of tokens in free running
    identical: float  # share of outputs


def agreement(
    float_bundle: str,
    int8_bundle: str,
    sources: Sequence[Sequence[int]],
    float_outputs: Sequence[Sequence[int]],
    int8_outputs: Sequence[Sequence[int]],
) -> Agreement:
    """`sources` and outputs are token ids; outputs end in EOS."""
    float_model, int8_model = _candidate(float_bundle), _candidate(int8_bundle)
    start = float_model.manifest.special_tokens.decoder_start
    agreed: list[np.ndarray] = []
    divergence: list[np.ndarray] = []
    for source, output in zip(sources, float_outputs, strict=True):
        decoder_ids = [start, *output[:-1]]
        expected, found = (
            model.logits(model.encode(source), decoder_ids) for model in (float_model, int8_model)
        )
        agreed.append(expected.argmax(axis=1) == found.argmax(axis=1))
        divergence.append(kl_divergence(expected, found))
    kl = np.concatenate(divergence)
    ratios = [
        difflib.SequenceMatcher(None, [*ours], [*theirs], autojunk=False).ratio()
        for ours, theirs in zip(int8_outputs, float_outputs, strict=True)
    ]
    return Agreement(
        n_tokens=len(kl),
        argmax=float(np.concatenate(agreed).mean()),
        mean_kl=float(kl.mean()),
        high_kl=float(np.percentile(kl, 99)),
        sequences=float(np.mean(ratios)),
        identical=float(np.mean([ratio == 1 for ratio in ratios])),
    )


def _candidate(path: str) -> Candidate:
    with open_bundle(path) as bundle:
        files = {name: bytes(bundle.read(name)) for name in bundle.manifest.files}
        return Candidate(bundle.manifest, files)


@dataclass(frozen=True)
class Measured:
    """Everything that gates look at; scores are of the main set's valid rows."""

    size_bytes: int
    agreement: Agreement
    teacher: RowScores
    float32: RowScores
    int8: RowScores
    faithfulness: Faithfulness  # of int8
    names: float  # per output of int8, as a share of the references'
    slots: SlotErrors | None  # of int8, where sources are meaning representations

    def int8_loss(self, metric: str) -> Interval:
        """Points that int8 is below float32, with its interval."""
        return paired_change(self.int8, self.float32, metric)

    def distillation_loss(self, metric: str) -> Interval:
        """Points that int8 is below the teacher, with its interval."""
        return paired_change(self.int8, self.teacher, metric)


def gates(recipe: Recipe, measured: Measured) -> list[Gate]:
    """All gates of a recipe, passed or not."""
    return [*_of_int8(recipe, measured), *_of_task(recipe, measured)]


def _of_int8(recipe: Recipe, measured: Measured) -> Iterator[Gate]:
    limits, found = recipe.gates, measured.agreement
    yield Gate("size in MB", measured.size_bytes / 1e6, limits.max_size_mb, is_least=False)
    yield Gate("argmax agreement", found.argmax, limits.min_argmax_agreement, is_least=True)
    yield Gate("mean KL", found.mean_kl, limits.max_mean_kl, is_least=False)
    yield Gate("sequence agreement", found.sequences, limits.min_sequence_agreement, is_least=True)
    for metric in recipe.metrics:
        loss = measured.int8_loss(metric)
        yield Gate(f"int8 loss, {metric}", loss.value, limits.max_int8_loss, is_least=False)
        bound = limits.max_int8_loss_bound
        yield Gate(f"int8 loss, upper bound, {metric}", loss.high, bound, is_least=False)


def _of_task(recipe: Recipe, measured: Measured) -> Iterator[Gate]:
    limits, faithful = recipe.gates, measured.faithfulness
    for metric in recipe.metrics:
        loss = measured.distillation_loss(metric)
        yield Gate(f"loss to the teacher, {metric}", loss.value, limits.max_teacher_loss, is_least=False)
    for name, least in limits.min_scores.items():
        yield Gate(name, measured.int8.value(name), least, is_least=True)
    yield Gate("unsupported names", faithful.unsupported_names, limits.max_unsupported_names, is_least=False)
    yield Gate(
        "unsupported numbers", faithful.unsupported_numbers, limits.max_unsupported_numbers, is_least=False
    )
    yield Gate("loops", faithful.loops, limits.max_loops, is_least=False)
    yield Gate("names, share of the references'", measured.names, limits.min_names, is_least=True)
    if measured.slots is not None:
        yield Gate("slot errors", measured.slots.rate, limits.max_slot_error, is_least=False)


def failures(checked: Sequence[Gate]) -> Mapping[str, str]:
    """Name -> sentence of those that do not pass."""
    return {gate.name: str(gate) for gate in checked if not gate.passes}
