"""What a change of one layer does to the outputs, told without labels.

A small relative error e of one layer alone changes the class probabilities by a Kullback–Leibler
divergence of about s·e² nats. s, the layer's sensitivity, differs between the layers of one network
by three orders of magnitude; it takes a pass over unlabelled images for each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from cpnb.layers.copies import copied
from cpnb.training.batches import image_batches
from cpnb.training.cuts import Reading
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
    with evaluation_mode(model), evaluation_mode(reference):
        for images in image_batches(data, batch_size, name="data"):
            theirs, ours = (_log_probabilities(m, images) for m in (reference, model))
            total += _gap(theirs, ours)
            count += theirs[:, 0].numel()
    return total / count


@torch.no_grad()
def sensitivities(
    model: nn.Module,
    trials: dict[str, tuple[nn.Module, float]],
    data,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, float]:
    """Nats of divergence for an error of one in each layer, extrapolated from a factored one.

    Parameters
    ----------
    model : nn.Module
        Left as it was.
    trials : dict of str to (nn.Module, float)
        For each layer a factored one, tried alone, and its relative error.
    data, batch_size
        As for :func:`divergence`. Each batch is read once, so that a loader may draw at random.
    progress : bool
        Show a progress bar.
    """
    changed, totals, count, cuts = copied(model), dict.fromkeys(trials, 0.0), 0, None
    with evaluation_mode(changed):
        found = image_batches(data, batch_size, name="data")
        for images in tqdm(found, "plan: outputs", unit="batch", disable=not progress):
            theirs = _log_probabilities(changed, images)
            count += theirs[:, 0].numel()
            reading = Reading([changed], images, cuts)
            cuts = reading.cuts
            for name, (factored, _) in trials.items():
                reading.advance(name)
                (rest,) = reading.models
                dense = rest.get_submodule(name)
                rest.set_submodule(name, factored)
                totals[name] += _gap(theirs, _log_probabilities(rest, reading.data))
                rest.set_submodule(name, dense)
    return {name: totals[name] / count / max(e, 1e-6) ** 2 for name, (_, e) in trials.items()}


def _log_probabilities(model: nn.Module, images: Tensor) -> Tensor:
    return logits_in(model(images.to(device_of(model)))).double().log_softmax(1)


def _gap(theirs: Tensor, ours: Tensor) -> float:
    return float((theirs.exp() * (theirs - ours)).sum())
