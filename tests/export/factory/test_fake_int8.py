"""Rounding in training is that of a bundle, lets gradients through, and leaves nothing behind."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from edge_s2s_export.factory.examples import Epochs, Example, shapes_of
from edge_s2s_export.factory.fake_int8 import attach, round_as_int8
from edge_s2s_export.factory.networks import Network, new_model
from edge_s2s_export.factory.training import TrainingOptions, train

NETWORK = Network(128, 128, 2, 1, 1)
IDS = torch.tensor([[5, 9, 3, 7, 1]])


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, decoder_input_ids=IDS[:, :3]).logits


def test_rows_are_rounded_to_127_steps_of_their_largest():
    x = torch.randn(40, 33, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 40)[:, None]
    found = round_as_int8(x).numpy()
    scale = np.abs(x.numpy()).max(axis=1, keepdims=True) / 127
    np.testing.assert_allclose(found, np.rint(x.numpy() / scale) * scale, rtol=1e-5)  # float32, twice
    codes = found / scale
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
    assert (np.abs(codes).max(axis=1) > 126.9).all()
    assert torch.equal(round_as_int8(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_the_gradient_is_that_of_what_was_not_rounded():
    x = torch.randn(4, 8, requires_grad=True)
    weight = torch.randn(4, 8)
    (round_as_int8(x) * weight).sum().backward()
    assert torch.equal(x.grad, weight)


def test_a_model_computes_with_rounded_weights_and_inputs_until_it_is_detached():
    model = new_model(NETWORK, 50, seed=0).eval()
    before = logits(model)
    detach = attach(model)
    rounded = logits(model)
    detach()
    assert torch.equal(logits(model), before)
    assert 1e-4 < (rounded - before).abs().max() / before.abs().max() < 0.1
    hooks = []
    with torch.no_grad():  # the same by hand: weights replaced, inputs rounded on the way
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_(round_as_int8(module.weight))
                if module is not model.lm_head:
                    hooks.append(module.register_forward_pre_hook(lambda _, args: (round_as_int8(args[0]),)))
    torch.testing.assert_close(logits(model), rounded, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    assert len(hooks) == 2 * 4 + 4 + 2 * 3


def test_a_training_with_it_learns_and_ends_without(tmp_path: Path):
    draws = torch.randint(3, 33, (64, 6), generator=torch.Generator().manual_seed(0)).tolist()
    stream = Epochs([Example([*ids, 1], [*ids, 1]) for ids in draws], shapes_of((7,), 7, 224), seed=0)
    options = TrainingOptions(steps=12, dtype="float32", log_every=6)
    models, losses = [], []
    for aware in (False, True):
        model = new_model(NETWORK, 50, seed=0)
        seen: list[float] = []
        train(
            model,
            stream,
            options,
            tmp_path / str(aware),
            quantization_aware=aware,
            on_progress=lambda progress, seen=seen: seen.append(progress.loss),
        )
        models.append(model)
        losses.append(seen)
    assert losses[1][1] < losses[1][0]
    assert losses[1] != losses[0]  # it saw the rounding
    weights = models[1].encoder.block[0].layer[0].SelfAttention.q.weight
    assert not torch.equal(round_as_int8(weights), weights)  # of which none is in the weights
    assert not [module for module in models[1].modules() if "forward" in vars(module)]
