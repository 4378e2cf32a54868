"""Losses are those of transformers and of torch, and a teacher has nothing to teach itself."""

import pytest
import torch

from edge_s2s_export.factory.examples import IGNORED, Example, Shape, collate
from edge_s2s_export.factory.losses import Distillation, distillation_loss, label_loss, run
from edge_s2s_export.factory.networks import Network, new_model

NETWORK = Network(d_model=128, d_ff=128, num_heads=2, num_layers=2, num_decoder_layers=1)
BATCH = collate([Example([5, 6, 7, 1], [8, 9, 1]), Example([11, 1], [12, 13, 14, 15, 1])], Shape(3, 6, 5))


def model(seed: int):
    return new_model(NETWORK, 60, seed=seed).eval()


@torch.no_grad()
def test_the_loss_on_labels_is_that_of_transformers():
    network = model(0)
    ours = label_loss(run(network, BATCH).logits, BATCH.labels) / BATCH.n_labels
    theirs = network(input_ids=BATCH.input_ids, attention_mask=BATCH.attention_mask, labels=BATCH.labels).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_rows_without_an_example_leave_gradients_alone():
    gradients = []
    for n_rows in (2, 3):
        network = model(0)
        batch = collate([Example([5, 6, 7, 1], [8, 9, 1]), Example([11, 1], [12, 1])], Shape(n_rows, 6, 5))
        with torch.autocast("cpu", torch.bfloat16):
            label_loss(run(network, batch).logits, batch.labels).backward()
        gradients.append(network.shared.weight.grad)
    assert gradients[0].isfinite().all()
    torch.testing.assert_close(*gradients, rtol=2e-2, atol=1e-2)  # bfloat16 products in another order


@torch.no_grad()
def test_a_teacher_has_nothing_to_teach_itself():
    options = Distillation(logits_weight=1.0, hidden_weight=1.0)
    first, second = run(model(0), BATCH), run(model(1), BATCH)
    assert distillation_loss(first, first, BATCH, options).item() == pytest.approx(0, abs=1e-4)
    assert distillation_loss(first, second, BATCH, options).item() > 1


@torch.no_grad()
def test_the_divergence_is_that_of_the_definition():
    student, teacher = run(model(0), BATCH), run(model(1), BATCH)
    expected = 0.0
    for ours, theirs, label in zip(
        student.logits.flatten(0, 1), teacher.logits.flatten(0, 1), BATCH.labels.flatten(), strict=True
    ):
        if label != IGNORED:
            p, q = (theirs / 2).softmax(-1), (ours / 2).softmax(-1)
            expected += (p * (p / q).log()).sum().item() * 4 * 0.5
    found = distillation_loss(student, teacher, BATCH, Distillation(logits_weight=0.5, temperature=2.0))
    assert found.item() == pytest.approx(expected, rel=1e-5)
