"""A trained network as teacher of another: its answers count beside the labels.

The teacher's class probabilities tell of each image which other classes it is like, which one label
does not (Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpnb.layers.copies import copied
from cpnb.training.evaluation import logits_in

TEMPERATURE = 4.0  # that softens both networks' probabilities
SHARE = 0.5  # of the teacher in the loss: as much as the labels


def prepared(teacher: nn.Module, device: torch.device, layout: torch.memory_format) -> nn.Module:
    """A copy of the teacher that stands still, where the training is.

    Raises
    ------
    TypeError
        It is no module.
    """
    if not isinstance(teacher, nn.Module):
        raise TypeError(f"teacher must be an nn.Module, got {type(teacher).__name__}")
    return copied(teacher).eval().requires_grad_(False).to(device, memory_format=layout)


def taught(loss: Tensor, logits: Tensor, teacher: nn.Module, images: Tensor) -> Tensor:
    """The loss by the labels together with that by the teacher's answers.

    (1 − s) loss + s t² KL(teacher ‖ model), both probabilities softened by the temperature t, as
    equation 4 of the paper has it; t² keeps the gradients' size.

    Raises
    ------
    ValueError
        The teacher's logits are not of the model's shape, or not finite.
    """
    with torch.no_grad():
        answers = logits_in(teacher(images))
    if answers.shape != logits.shape:
        raise ValueError(
            f"teacher gives logits of shape {tuple(answers.shape)} where the model gives "
            f"{tuple(logits.shape)}; they must have the same classes"
        )
    if not answers.isfinite().all():
        raise ValueError("teacher gives NaN or Inf for images of loader; its logits must be finite")
    ours, theirs = (F.log_softmax(values / TEMPERATURE, 1) for values in (logits, answers))
    gap = F.kl_div(ours, theirs, log_target=True, reduction="batchmean")
    return (1 - SHARE) * loss + SHARE * TEMPERATURE**2 * gap
