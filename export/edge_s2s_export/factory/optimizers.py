"""Muon for the hidden matrices, AdamW for what is left: embeddings, norms, biases of relative position.

Muon makes every update of a matrix equally large in all directions, so small models learn more from each
token; torch has both. T5 folds attention's 1/sqrt(d_kv) into the queries: their steps are smaller by it.
"""

from collections.abc import Iterable
from typing import Any

import torch

QUERY_SCALE = 1 / 8  # 1/sqrt(d_kv)


class Optimizers:
    """Several optimizers as one, with one factor on all their learning rates."""

    def __init__(self, parts: Iterable[torch.optim.Optimizer]) -> None:
        self._parts = list(parts)
        self._full = [[group["lr"] for group in part.param_groups] for part in self._parts]

    def step(self, scale: float) -> None:
        """One step at `scale` times the learning rates; gradients are gone afterwards."""
        for part, rates in zip(self._parts, self._full, strict=True):
            for group, rate in zip(part.param_groups, rates, strict=True):
                group["lr"] = rate * scale
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """Of each part, for a checkpoint."""
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Goes on from what `state_dict` gave."""
        for part, state in zip(self._parts, states, strict=True):
            part.load_state_dict(state)


def muon(model: torch.nn.Module, *, learning_rate: float, muon_learning_rate: float) -> Optimizers:
    """For a new T5-like model: `learning_rate` is that of AdamW."""
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    hidden = {
        name for name, weight in named if weight.ndim == 2 and "block" in name and "relative" not in name
    }
    queries = [weight for name, weight in named if name in hidden and name.endswith(".q.weight")]
    matrices = [weight for name, weight in named if name in hidden and not name.endswith(".q.weight")]
    others = [weight for name, weight in named if name not in hidden]
    return Optimizers(
        [
            torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
            torch.optim.Muon(
                [
                    {"params": matrices, "lr": muon_learning_rate},
                    {"params": queries, "lr": muon_learning_rate * QUERY_SCALE},
                ],
                weight_decay=0.0,
                adjust_lr_fn="match_rms_adamw",
            ),
        ]
    )


def adamw(model: torch.nn.Module, *, learning_rate: float) -> Optimizers:
    """For pretrained models of any family."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return Optimizers([torch.optim.AdamW(weights, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)])
