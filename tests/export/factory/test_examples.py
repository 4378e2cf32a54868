"""Batches hold each example once an epoch, whole, and are a function of their index."""

from collections import Counter

import pytest
import torch

from edge_s2s_export.factory.examples import (
    IGNORED,
    LENGTH_NOISE,
    PAD,
    Epochs,
    Example,
    Shape,
    collate,
    shapes_of,
)

SHAPES = shapes_of((8, 20), target_length=6, tokens_per_batch=60)
EXAMPLES = [Example([*range(10, 10 + n), 1], [*range(40, 40 + n % 5), 1]) for n in range(1, 30)]


def test_shapes_hold_as_many_rows_as_tokens_allow():
    assert (Shape(4, 8, 6), Shape(2, 20, 6)) == SHAPES
    assert shapes_of([100], target_length=10, tokens_per_batch=50) == (Shape(1, 100, 10),)


def test_what_is_too_long_is_cut_and_keeps_its_end():
    batch = collate([Example([5, 6, 7, 8, 1], [3, 1]), Example([9, 1], [2, 3, 4, 1])], Shape(3, 4, 3))
    assert batch.input_ids.tolist() == [[5, 6, 7, 1], [9, 1, PAD, PAD], [PAD] * 4]
    assert batch.labels.tolist() == [[3, 1, IGNORED], [2, 3, 1], [IGNORED] * 3]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]
    assert (batch.n_labels, batch.n_tokens) == (5, 12)


def test_trimming_takes_away_columns_of_padding_alone():
    batch = collate([Example(range(5, 15), [3, 1]), Example([9, 1], range(3, 12))], Shape(3, 40, 20))
    trimmed = batch.trimmed()
    assert trimmed.input_ids.shape == trimmed.attention_mask.shape == (3, 16)
    assert trimmed.labels.shape == (3, 16)
    assert torch.equal(trimmed.input_ids, batch.input_ids[:, :16])
    assert torch.equal(trimmed.labels, batch.labels[:, :16])
    full = collate([Example(range(1, 7), [3, 1])], Shape(1, 6, 2))
    assert full.trimmed().input_ids.shape == (1, 6)


def test_an_epoch_has_every_example_once():
    epochs = Epochs(EXAMPLES, SHAPES, seed=4)
    for epoch in (0, 3):
        seen: Counter[int] = Counter()
        for index in range(epoch * epochs.n_batches, (epoch + 1) * epochs.n_batches):
            batch = epochs(index)
            lengths = batch.attention_mask.sum(1)
            real = (batch.labels != IGNORED).any(1)
            seen.update(int(n) for n in lengths[real])
        assert seen == Counter(min(len(example.source), 20) for example in EXAMPLES)


def test_targets_of_a_batch_are_about_equally_long_and_other_ones_meet_each_epoch():
    examples = [Example([5, 1], [*range(40, 40 + n % 30), 1]) for n in range(600)]
    epochs = Epochs(examples, (Shape(20, 8, 40),), seed=4)
    batches = [(epochs(index).labels != IGNORED).sum(1) for index in range(2 * epochs.n_batches)]
    assert max(int(lengths.max() - lengths.min()) for lengths in batches) <= LENGTH_NOISE + 1
    first, second = batches[: epochs.n_batches], batches[epochs.n_batches :]
    assert sorted(str(b.tolist()) for b in first) != sorted(str(b.tolist()) for b in second)


def test_a_batch_is_a_function_of_seed_and_index():
    first, second = Epochs(EXAMPLES, SHAPES, seed=4), Epochs(EXAMPLES, SHAPES, seed=4)
    backwards = [second(index).input_ids for index in reversed(range(25))][::-1]
    assert all(torch.equal(first(index).input_ids, backwards[index]) for index in range(25))
    other = Epochs(EXAMPLES, SHAPES, seed=5)
    n = first.n_batches
    orders = [
        [epochs(index).input_ids.tolist() for index in where]
        for epochs, where in ((first, range(n)), (first, range(n, 2 * n)), (other, range(n)))
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match="at least one example"):
        Epochs([], SHAPES, seed=0)
