"""Training learns, is reproducible, goes on after a kill, and is the same on two processes as on one."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edge_s2s_export.factory.examples import Batch, Epochs, Example, collate, shapes_of
from edge_s2s_export.factory.losses import Distillation
from edge_s2s_export.factory.networks import Network, new_model
from edge_s2s_export.factory.training import (
    CHECKPOINT,
    LOG,
    TrainingOptions,
    learning_rate,
    on_policy,
    train,
)

NETWORK = Network(d_model=128, d_ff=128, num_heads=2, num_layers=2, num_decoder_layers=1)
VOCAB_SIZE = 80
SHAPES = shapes_of((8, 16), target_length=8, tokens_per_batch=128)
OPTIONS = TrainingOptions(steps=12, dtype="float32", dropout=0.1, log_every=4, seed=3)


def examples(n: int = 60) -> list[Example]:
    """Targets are every second token of the sources."""
    random = torch.Generator().manual_seed(0)
    sources = [torch.randint(3, VOCAB_SIZE, (4 + i % 11,), generator=random).tolist() for i in range(n)]
    return [Example([*source, 1], [*source[::2], 1]) for source in sources]


def stream() -> Epochs:
    return Epochs(examples(), SHAPES, seed=7)


def weights(model: Any) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in model.parameters()]


def trained(folder: Path, options: TrainingOptions = OPTIONS, **more: Any) -> list[torch.Tensor]:
    model = new_model(NETWORK, VOCAB_SIZE, seed=1)
    train(model, stream(), options, folder, **more)
    return weights(model)


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / LOG).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_training_lowers_the_loss_and_reads_the_source(tmp_path: Path):
    valid = [collate(examples(5), SHAPES[1])]
    trained(tmp_path, replace(OPTIONS, steps=60, log_every=10), valid=valid)
    log = rows(tmp_path)
    assert float(log[-1]["loss"]) < 0.75 * float(log[0]["loss"])
    assert float(log[-1]["wrong_source_loss"]) > float(log[-1]["valid_loss"]) + 1


def test_the_same_seed_gives_the_same_weights(tmp_path: Path):
    first = trained(tmp_path / "first")
    assert equal(first, trained(tmp_path / "second"))
    assert not equal(first, trained(tmp_path / "third", replace(OPTIONS, seed=4)))


class KilledError(Exception):
    pass


@pytest.mark.parametrize("killed_at", [1, 5, 11])
def test_a_killed_run_goes_on_to_the_same_weights(killed_at: int, tmp_path: Path):
    expected = trained(tmp_path / "undisturbed")
    often = replace(OPTIONS, checkpoint_minutes=0.0)
    batches = stream()

    def until_killed(index: int) -> Batch:
        if index == killed_at:
            raise KilledError
        return batches(index)

    with pytest.raises(KilledError):
        train(new_model(NETWORK, VOCAB_SIZE, seed=1), until_killed, often, tmp_path / "killed")
    asked: list[int] = []

    def noted(index: int) -> Batch:
        asked.append(index)
        return batches(index)

    model = new_model(NETWORK, VOCAB_SIZE, seed=99)  # the checkpoint has the weights
    train(model, noted, often, tmp_path / "killed")
    assert asked == list(range(killed_at, OPTIONS.steps))
    assert equal(weights(model), expected)
    assert [row["step"] for row in rows(tmp_path / "killed")] == ["4", "8", "12"]


def test_a_finished_run_takes_no_step_again(tmp_path: Path):
    expected = trained(tmp_path)

    def refuse(_index: int) -> Batch:
        raise AssertionError

    model = new_model(NETWORK, VOCAB_SIZE, seed=99)
    train(model, refuse, OPTIONS, tmp_path)
    assert equal(weights(model), expected)


def test_a_teacher_alone_teaches(tmp_path: Path):
    teacher = new_model(NETWORK, VOCAB_SIZE, seed=1)
    train(teacher, stream(), replace(OPTIONS, steps=60, dropout=0.0), tmp_path / "teacher")
    valid = [collate(examples(5), SHAPES[1])]
    student = Network(d_model=128, d_ff=128, num_heads=2, num_layers=1, num_decoder_layers=1)
    model = new_model(student, VOCAB_SIZE, seed=2)
    only = Distillation(label_weight=0.0, logits_weight=1.0, hidden_weight=1.0, on_policy_share=0.25)
    options = replace(OPTIONS, steps=60, log_every=10, dropout=0.0)
    train(model, stream(), options, tmp_path / "student", valid=valid, teacher=teacher, distillation=only)
    log = rows(tmp_path / "student")
    assert float(log[-1]["valid_loss"]) < 0.75 * float(log[0]["valid_loss"])


def test_on_policy_targets_are_the_models_own():
    model = new_model(NETWORK, VOCAB_SIZE, seed=1)
    batch = collate(examples(5), SHAPES[1])
    torch.manual_seed(0)
    own = on_policy(model, batch)
    assert own.labels.shape == batch.labels.shape
    assert own.n_labels > 0
    assert not torch.equal(own.labels, batch.labels)
    assert torch.equal(own.input_ids, batch.input_ids)


def test_rates_go_up_stay_and_go_down():
    options = TrainingOptions(steps=100, warmup=0.1, hold=0.5)
    rates = [learning_rate(step, options) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(rates[10:50]) == {1.0}
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[-1] == pytest.approx(0.02)


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path):
    model = new_model(NETWORK, VOCAB_SIZE, seed=1)
    model.shared.weight.data[:] = float("nan")
    with pytest.raises(ValueError, match="lower learning_rate"):
        train(model, stream(), OPTIONS, tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()


PROGRAM = """
import sys
from pathlib import Path
import torch
from test_training import NETWORK, OPTIONS, VOCAB_SIZE, new_model, replace, stream, train
torch.set_num_threads(1)
options = replace(OPTIONS, dropout=0.0, log_every=1, accumulation=int(sys.argv[2]))
train(new_model(NETWORK, VOCAB_SIZE, seed=1), stream(), options, Path(sys.argv[1]))
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed training")
def test_two_processes_do_what_one_does_with_twice_the_accumulation(tmp_path: Path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    for name, launcher, accumulation in (("one", [], 2), ("two", launch, 1)):
        command = [sys.executable, *launcher, program, tmp_path / name, str(accumulation)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, run.stderr[-3000:]
    one, two = ([float(row["loss"]) for row in rows(tmp_path / name)] for name in ("one", "two"))
    assert len(one) == OPTIONS.steps
    # Sums of gradients in another order: float32 rounding, grown over 12 steps.
    assert two == pytest.approx(one, rel=1e-3), json.dumps([one, two])


def test_dropout_leaves_attention_and_feed_forward_layers_whole(tmp_path: Path):
    model = new_model(NETWORK, VOCAB_SIZE, seed=1)
    train(model, stream(), dataclasses.replace(OPTIONS, steps=1), tmp_path)
    rates = {
        name: module.p if isinstance(module, torch.nn.Dropout) else module.dropout
        for name, module in model.named_modules()
        if isinstance(getattr(module, "dropout", None), float) or isinstance(module, torch.nn.Dropout)
    }
    inside = {name for name in rates if name.endswith(("Attention", "DenseReluDense.dropout"))}
    assert len(inside) == 7  # three feed-forward layers, three self-attentions, one cross-attention
    assert {rates[name] for name in inside} == {0.0}
    assert {rate for name, rate in rates.items() if name not in inside} == {OPTIONS.dropout}
