"""How much each output of a layer matters to the class probabilities, told without labels.

A small change δ of a layer's outputs at one position changes the class probabilities by a
Kullback–Leibler divergence of ½ δᵀFδ nats, with F = E[g gᵀ] the Fisher information, g the gradient
of log p(y) there, and y drawn from the network's own probabilities p. With Σ the covariance of the
input patches, ‖F^½ (W − Ŵ) Σ^½‖ weighs a change of the kernel by both: the Kronecker factors of
Martens and Grosse (2015, arXiv 1503.05671), for convolutions of Grosse and Martens (2016, arXiv
1602.01573).
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

from cpnb.training.batches import image_batches
from cpnb.training.evaluation import device_of, evaluation_mode, logits_in

MOST = 1024  # images that are looked at; 256 were seen to be too few
BATCH = 8  # images whose maps and gradients are held at once
RIDGE = 0.3  # share of the mean: an output that seems not to matter keeps a say


def output_metrics(model: nn.Module, data, layers, seed: int = 0) -> dict[str, Tensor]:
    """For each layer F over its T outputs, (T, T), scaled to a mean diagonal of 1, with a ridge.

    Layers are left out through which no gradient comes: nothing is known of their outputs. So are
    all of a model that gives no logits, or that cannot be trained.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits, classes along dimension 1. Left as it was.
    data : Dataset or DataLoader
        Images, with labels or without; the first 1,024 are looked at.
    layers : iterable of str
        Names of ``nn.Conv2d`` and ``nn.Linear`` layers.
    seed : int
        Of the classes drawn.
    """
    totals: dict[str, Tensor] = {}
    layers, draw, left = list(layers), torch.Generator().manual_seed(seed), MOST
    if not layers:
        return {}
    with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(model):
        for batch in image_batches(data, BATCH, name="data"):
            for images in batch[:left].split(BATCH):
                found = _squares(model, images, layers, draw)
                if found is None:
                    return {}
                for name, square in found.items():
                    totals[name] = totals.get(name, 0) + square
            left -= len(batch)
            if left <= 0:
                break
    return {name: _scaled(total) for name, total in totals.items() if _tells(total)}


def _squares(model, images: Tensor, layers: list[str], draw) -> dict[str, Tensor] | None:
    """The sum of g gᵀ over these images and each layer's positions; None: no gradient is told."""
    outputs: dict[str, list[Tensor]] = defaultdict(list)

    def keep(name):
        def hook(module, args, output):
            outputs[name].append(output)
            return output.clone()  # what follows may write into its input

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        images = images.to(device_of(model)).clone()
        images.requires_grad_(images.is_floating_point())
        logits = logits_in(model(images.clone())).movedim(1, -1).flatten(0, -2).float()
        classes = torch.multinomial(logits.detach().softmax(1).cpu(), 1, generator=draw)
        chosen = logits.log_softmax(1).gather(1, classes.to(logits.device)).sum()
        pairs = [(name, z) for name, each in outputs.items() for z in each if z.requires_grad]
        slopes = torch.autograd.grad(chosen, [z for _, z in pairs], allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, IndexError):  # other faults show in the passes that follow
        return None
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[str, Tensor] = {}
    for (name, _), slope in zip(pairs, slopes, strict=True):
        if slope is not None:
            axis = 1 if isinstance(model.get_submodule(name), nn.Conv2d) else -1
            rows = slope.movedim(axis, -1).flatten(0, -2).float()
            found[name] = found.get(name, 0) + (rows.T @ rows).double().cpu()
    return found


def _tells(total: Tensor) -> bool:
    return bool(torch.isfinite(total).all() and total.diagonal().mean() > 0)


def _scaled(total: Tensor) -> Tensor:
    scaled = (total + total.T) / (2 * total.diagonal().mean())  # symmetric to the last digit
    return (scaled + RIDGE * torch.eye(len(total), dtype=total.dtype)) / (1 + RIDGE)
