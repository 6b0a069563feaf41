"""What a change of one layer does to the outputs, told without labels.

A small relative error e of one layer alone changes the class probabilities by a Kullback–Leibler
divergence of about s·e² nats. s, the layer's sensitivity, differs between the layers of one network
by three orders of magnitude; it takes a pass over unlabelled images for each. What the next layer
can make up for, refitted as :func:`cpnb.compress` does it, is not counted: without that the early
layers of SqueezeNet look up to three times as sensitive as they are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from cpnb.layers.copies import copied
from cpnb.training.batches import image_batches
from cpnb.training.cuts import Reading
from cpnb.training.evaluation import device_of, evaluation_mode, logits_in
from cpnb.training.layer_fit import is_large, refit


class Trial(NamedTuple):
    """A network with one layer factored: what to put in its places, and that layer's error."""

    parts: dict[str, nn.Module]
    error: float

    @classmethod
    def of(
        cls, model: nn.Module, name: str, factored: nn.Module, error: float, behind: str, data
    ) -> Trial:
        """The factored layer, and the one ``behind`` it (empty: none) refitted to its outputs.

        A large layer behind stays as it is: refitting it would take longer than all else.
        """
        parts = {name: factored}
        if behind and not is_large(model.get_submodule(behind).weight.shape):
            changed = copied(model, [*model.parameters(), *model.buffers()])
            parts[behind] = copied(model.get_submodule(behind))
            for each, part in parts.items():
                changed.set_submodule(each, part)
            refit(changed, model, behind, data)
        return cls(parts, error)


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
    trials: dict[str, Trial],
    data,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, float]:
    """Nats of divergence for an error of one in each layer, extrapolated from a factored one.

    Parameters
    ----------
    model : nn.Module
        Left as it was.
    trials : dict of str to Trial
        For each layer what is tried, that layer alone factored.
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
            for name, trial in trials.items():
                reading.advance(name)
                (rest,) = reading.models
                dense = {each: rest.get_submodule(each) for each in trial.parts}
                for each, part in trial.parts.items():
                    rest.set_submodule(each, part)
                totals[name] += _gap(theirs, _log_probabilities(rest, reading.data))
                for each, part in dense.items():
                    rest.set_submodule(each, part)
    return {
        name: totals[name] / count / max(trial.error, 1e-6) ** 2 for name, trial in trials.items()
    }


def _log_probabilities(model: nn.Module, images: Tensor) -> Tensor:
    return logits_in(model(images.to(device_of(model)))).double().log_softmax(1)


def _gap(theirs: Tensor, ours: Tensor) -> float:
    return float((theirs.exp() * (theirs - ours)).sum())
