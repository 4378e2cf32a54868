"""What a network is trained on: pairs of token ids, in batches of a few fixed shapes.

A batch is a pure function of its index, so a run that was killed goes on with the very batches that it
would have seen, and processes share the work without speaking about it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch

PAD = 0
IGNORED = -100  # a label that no loss counts, as in transformers
LENGTH_NOISE = 4.0  # tokens by which targets of a batch differ, so that each epoch mixes them anew


@dataclass(frozen=True)
class Example:
    """A pair; both end with the token of the end."""

    source: Sequence[int]
    target: Sequence[int]


@dataclass(frozen=True)
class Batch:
    """`input_ids`, `attention_mask`: int64 [rows, source]; `labels`: int64 [rows, target]."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor

    def trimmed(self) -> "Batch":
        """Without the columns that are padding in all rows, up to a multiple of 8, which kernels like."""
        source = _columns(self.attention_mask != 0)
        return Batch(
            self.input_ids[:, :source],
            self.attention_mask[:, :source],
            self.labels[:, : _columns(self.labels != IGNORED)],
        )

    @property
    def n_labels(self) -> int:
        """Tokens of targets."""
        return int((self.labels != IGNORED).sum())

    @property
    def n_tokens(self) -> int:
        """Of source and target, without padding."""
        return int(self.attention_mask.sum()) + self.n_labels


@dataclass(frozen=True)
class Shape:
    """Of a batch: what is longer is cut off, what is shorter is padded."""

    rows: int
    source_length: int
    target_length: int


class Stream(Protocol):
    """Batches by their index, without end."""

    def __call__(self, index: int) -> Batch:
        """The batch of that number."""
        ...


def shapes_of(source_lengths: Sequence[int], target_length: int, tokens_per_batch: int) -> tuple[Shape, ...]:
    """One shape for each source length, of as many rows as `tokens_per_batch` (source and target) hold."""
    return tuple(
        Shape(max(1, tokens_per_batch // (length + target_length)), length, target_length)
        for length in sorted(source_lengths)
    )


def collate(examples: Sequence[Example], shape: Shape) -> Batch:
    """Rows that are missing have a source of one padding token and no labels, so no loss counts them."""
    source = np.full((shape.rows, shape.source_length), PAD, np.int64)
    labels = np.full((shape.rows, shape.target_length), IGNORED, np.int64)
    for row, example in enumerate(examples):
        ids = _cut(example.source, shape.source_length)
        source[row, : len(ids)] = ids
        ids = _cut(example.target, shape.target_length)
        labels[row, : len(ids)] = ids
    input_ids = torch.from_numpy(source)
    attention_mask = (input_ids != PAD).long()
    attention_mask[len(examples) :, 0] = 1  # attention to nothing is not a number
    return Batch(input_ids, attention_mask, torch.from_numpy(labels))


def _columns(used: torch.Tensor) -> int:
    """How many columns hold all that is used, up to a multiple of 8."""
    last = int(used.any(0).nonzero().max()) + 1
    return min(-(-last // 8) * 8, used.shape[1])


def _cut(ids: Sequence[int], length: int) -> Sequence[int]:
    """The first ones and the last, which is the end."""
    return ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]


class Epochs:
    """Every example once, in an order drawn anew each time, in the shortest shape that holds its source.

    Targets of a batch are about equally long, so that little of what `trimmed` leaves is padding.
    """

    def __init__(self, examples: Sequence[Example], shapes: Sequence[Shape], *, seed: int) -> None:
        if not examples:
            raise ValueError("expected at least one example to train on, found none")
        self._examples, self._shapes, self._seed = examples, shapes, seed
        lengths = np.array([shape.source_length for shape in shapes])
        fits = np.searchsorted(lengths, [len(example.source) for example in examples])
        members = np.minimum(fits, len(shapes) - 1)
        self._target_lengths = np.array([len(example.target) for example in examples])
        self._members = [np.flatnonzero(members == index) for index in range(len(shapes))]
        self.n_batches = sum(
            -(-len(of_shape) // shape.rows) for of_shape, shape in zip(self._members, shapes, strict=True)
        )
        self._plan = lru_cache(maxsize=2)(self._draw)

    def _draw(self, epoch: int) -> list[tuple[Shape, np.ndarray]]:
        random = np.random.default_rng([self._seed, epoch])
        plan = []
        for shape, members in zip(self._shapes, self._members, strict=True):
            noise = random.uniform(0, LENGTH_NOISE, len(members))
            order = members[np.argsort(self._target_lengths[members] + noise)]
            plan += [(shape, order[at : at + shape.rows]) for at in range(0, len(order), shape.rows)]
        return [plan[index] for index in random.permutation(len(plan))]

    def __call__(self, index: int) -> Batch:
        """The batch of that number; an epoch has `n_batches`."""
        shape, members = self._plan(index // self.n_batches)[index % self.n_batches]
        return collate([self._examples[member] for member in members], shape)
