"""What training minimizes: the loss on labels, and on what a teacher says.

After "Distilling the Knowledge in a Neural Network" (https://arxiv.org/abs/1503.02531) for logits, and
DistilBERT's hidden-state loss (https://arxiv.org/abs/1910.01108), here by mean square of normalized states.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from .examples import IGNORED, PAD, Batch


@dataclass(frozen=True)
class Distillation:
    """How much a teacher counts. All weights 0: it does not."""

    label_weight: float = 0.2  # of the loss on labels
    logits_weight: float = 0.8  # of KL(teacher || student), times temperature squared
    temperature: float = 2.0
    hidden_weight: float = 0.0  # of encoder states; student and teacher must have the same width
    on_policy_share: float = 0.0  # of the steps, the targets of which the student writes itself


def decoder_input(labels: torch.Tensor) -> torch.Tensor:
    """Labels one to the right behind the start token, which is padding, as in T5."""
    return functional.pad(labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, PAD), (1, 0), value=PAD)


def run(model: Any, batch: Batch) -> Any:
    """transformers' output: `logits` float [rows, target, vocabulary] and `encoder_last_hidden_state`."""
    return model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        decoder_input_ids=decoder_input(batch.labels),
        use_cache=False,
    )


def label_loss(logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy in nats, summed over labels."""
    return functional.cross_entropy(
        logits.float().flatten(0, 1),
        labels.flatten(),
        ignore_index=IGNORED,
        label_smoothing=smoothing,
        reduction="sum",
    )


def distillation_loss(student: Any, teacher: Any, batch: Batch, options: Distillation) -> torch.Tensor:
    """The teacher's part of the loss, summed over labels."""
    counted = (batch.labels != IGNORED).flatten()
    loss = torch.zeros((), device=batch.labels.device)
    if options.logits_weight:
        t = options.temperature
        ours = functional.log_softmax(student.logits.float().flatten(0, 1)[counted] / t, -1)
        theirs = functional.log_softmax(teacher.logits.float().flatten(0, 1)[counted] / t, -1)
        divergence = functional.kl_div(ours, theirs, log_target=True, reduction="sum")
        loss = loss + options.logits_weight * t * t * divergence
    if options.hidden_weight:
        heard = batch.attention_mask.bool()
        width = student.encoder_last_hidden_state.shape[-1:]
        ours, theirs = (
            functional.rms_norm(output.encoder_last_hidden_state.float()[heard], width)
            for output in (student, teacher)
        )
        distance = functional.mse_loss(ours, theirs)  # of an average element, so weigh it by the labels
        loss = loss + options.hidden_weight * counted.sum() * distance
    return loss
