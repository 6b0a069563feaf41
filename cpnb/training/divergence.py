"""What a change of one layer does to the outputs, told without labels.

A small relative error e of one layer alone changes the class probabilities by a Kullback–Leibler
divergence of about s·e² nats. s, the layer's sensitivity, differs between the layers of one network
by three orders of magnitude; it takes one pass over unlabelled images.
"""

from __future__ import annotations

import torch
from torch import nn

from cpnb.layers.copies import copied
from cpnb.training.batches import image_batches
from cpnb.training.evaluation import device_of, evaluation_mode, logits_in


@torch.no_grad()
def divergence(model: nn.Module, reference: nn.Module, data, batch_size: int = 64) -> float:
    """Mean Kullback–Leibler divergence (nats) of a model's class probabilities from a reference's.

    Parameters
    ----------
    model, reference : nn.Module
        Map images to logits, classes along dimension 1.
    data : Dataset or DataLoader
        Images, with labels or without.
    batch_size : int
        For data given as a data set.
    """
    total = count = 0
    device = device_of(reference)
    with evaluation_mode(model), evaluation_mode(reference):
        for images in image_batches(data, batch_size, name="data"):
            images = images.to(device)
            logits = (logits_in(m(images)).double() for m in (model, reference))
            ours, theirs = (values.log_softmax(1) for values in logits)
            total += float((theirs.exp() * (theirs - ours)).sum())
            count += theirs[:, 0].numel()
    return total / count


def sensitivity(model: nn.Module, layer: str, factored: nn.Module, error: float, data) -> float:
    """Nats of divergence for an error of one, extrapolated from one factored layer's ``error``."""
    changed = copied(model)
    changed.set_submodule(layer, factored)
    return divergence(changed, model, data) / max(error, 1e-6) ** 2
