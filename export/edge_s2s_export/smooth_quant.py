"""SmoothQuant for T5: moves what is hard to quantize from activations into weights, exactly.

Activations get one int8 scale a token, so one loud channel costs the others their precision. Dividing a
channel by s and multiplying what reads it by s changes no result, and T5 has no biases in the way: every
channel of every matrix's input has a place to be divided in, the norm or the rows before it
(https://arxiv.org/abs/2211.10438, s = max|activation|^alpha / max|weight|^(1 - alpha)).

The decoder's last norm is left alone: what reads it is the tied table, which is also the input embedding.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ALPHA = 0.5
BOUNDS = 0.1, 10.0  # of s: a channel that calibration never heard must not vanish


@dataclass(frozen=True)
class Fold:
    """Channels that `divide`, a norm or a matrix, produces and the matrices `multiply` read."""

    name: str
    divide: nn.Parameter
    multiply: tuple[nn.Linear, ...]


@torch.no_grad()
def smooth(model: Any, calibrate: Callable[[], None], *, alpha: float = ALPHA) -> dict[str, float]:
    """Changes the weights of a `T5ForConditionalGeneration`, not its results.

    `calibrate` runs the model on typical inputs. Returns for each fold how much less loud the loudest
    channel is, against the mean one: above 1 is easier to quantize. Raises ValueError for another model.
    """
    folds = list(_folds(model))
    loudest = _record(folds, calibrate)
    gains = {}
    for fold in folds:
        activations = loudest[fold.multiply[0]]
        weights = torch.stack([matrix.weight.abs().amax(0) for matrix in fold.multiply]).amax(0)
        scale = activations.clamp_min(1e-5) ** alpha / weights.clamp_min(1e-5) ** (1 - alpha)
        scale = (scale / scale.log().mean().exp()).clamp(*BOUNDS)
        fold.divide.div_(scale if fold.divide.ndim == 1 else scale[:, None])
        for matrix in fold.multiply:
            matrix.weight.mul_(scale)
        gains[fold.name] = (_peak(activations) / _peak(activations / scale)).item()
    return gains


def _folds(model: Any) -> Iterator[Fold]:
    if type(model).__name__ != "T5ForConditionalGeneration":
        raise ValueError(f"smoothing: expected a T5 model, found {type(model).__name__}")
    for stack in ("encoder", "decoder"):
        for i, block in enumerate(getattr(model, stack).block):
            name = f"{stack}.{i}"
            own = block.layer[0]
            attention = own.SelfAttention
            yield Fold(f"{name}.attention", own.layer_norm.weight, (attention.q, attention.k, attention.v))
            yield Fold(f"{name}.attention.o", attention.v.weight, (attention.o,))
            if stack == "decoder":
                cross = block.layer[1].EncDecAttention
                yield Fold(f"{name}.cross", block.layer[1].layer_norm.weight, (cross.q,))
                yield Fold(f"{name}.cross.o", cross.v.weight, (cross.o,))
            last = block.layer[-1]
            ffn = last.DenseReluDense
            gated = hasattr(ffn, "wi_1")
            yield Fold(f"{name}.ffn", last.layer_norm.weight, (ffn.wi_0, ffn.wi_1) if gated else (ffn.wi,))
            if gated or type(ffn.act) is nn.ReLU:  # products and ReLU pass a positive factor on
                yield Fold(f"{name}.ffn.wo", (ffn.wi_1 if gated else ffn.wi).weight, (ffn.wo,))
    readers = [block.layer[1].EncDecAttention for block in model.decoder.block]
    yield Fold(
        "encoder.norm",
        model.encoder.final_layer_norm.weight,
        tuple(matrix for cross in readers for matrix in (cross.k, cross.v)),
    )


def _record(folds: Iterable[Fold], calibrate: Callable[[], None]) -> dict[nn.Linear, Tensor]:
    """The largest magnitude of each channel of each matrix's input, [in]."""
    loudest: dict[nn.Linear, Tensor] = defaultdict(lambda: torch.zeros(()))

    def note(matrix: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        largest = inputs[0].detach().abs().flatten(0, -2).amax(0)
        loudest[matrix] = torch.maximum(loudest[matrix], largest)

    readers = {fold.multiply[0] for fold in folds}
    handles = [matrix.register_forward_pre_hook(note) for matrix in readers]
    try:
        calibrate()
    finally:
        for handle in handles:
            handle.remove()
    if missing := [fold.name for fold in folds if fold.multiply[0] not in loudest]:
        raise ValueError(f"calibration: expected it to run the whole model, it never came to {missing[0]}")
    return loudest


def _peak(channels: Tensor) -> Tensor:
    """The loudest channel over the mean one."""
    return channels.max() / channels.mean().clamp_min(1e-9)
