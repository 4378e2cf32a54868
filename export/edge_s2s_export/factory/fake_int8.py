"""int8's rounding in the forward passes of a training, so that a student learns weights that bear it.

Weights are rounded by row and activations by token, as bundles are; gradients pass as though nothing were
(quantization-aware training with a straight-through estimator, https://arxiv.org/abs/1712.05877).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def round_as_int8(x: Tensor) -> Tensor:
    """`x`, each of its rows in 127 steps from 0 to its largest magnitude; the gradient is that of `x`."""
    with torch.no_grad():
        step = x.float().abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 127
        change = (x / step).round() * step - x
    return x + change


def attach(model: Any) -> Callable[[], None]:
    """Makes a transformers model round as its int8 bundle will; what it returns ends that.

    The output head's activations stay as they are: a bundle computes its best logits from them again.
    """
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    patched: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            vars(module)["forward"] = partial(_linear, module, rounds_input=module is not head)
        elif module is table:
            vars(module)["forward"] = partial(_look_up, module)
        else:
            continue
        patched.append(module)

    def detach() -> None:
        for module in patched:
            del vars(module)["forward"]

    return detach


def _linear(module: nn.Linear, x: Tensor, *, rounds_input: bool) -> Tensor:
    rounded = round_as_int8(x) if rounds_input else x
    return functional.linear(rounded, round_as_int8(module.weight), module.bias)


def _look_up(module: nn.Embedding, ids: Tensor) -> Tensor:
    return functional.embedding(ids, round_as_int8(module.weight), module.padding_idx)
