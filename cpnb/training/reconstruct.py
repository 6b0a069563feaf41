"""What the data say about one layer: Jaderberg's data reconstruction, Denton's gradient metric.

Both look at a layer in its place in the network, one pass over batches of training data at a time.
"""

from __future__ import annotations

import math
import time
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from cpnb.training.batches import batches, count_batches, image_batches
from cpnb.training.evaluation import device_of, evaluation_mode, logits_of
from cpnb.training.gradients import gradients, recordable, require_trainable
from cpnb.training.seen import calls_of, find_part, seen


def reconstruct_on_data(
    model: nn.Module,
    reference: nn.Module,
    layer: str,
    loader,
    epochs: int = 1,
    *,
    lr: float = 1e-3,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> list[dict]:
    """Fit a factored layer to the outputs of the layer it replaced ("local" fine-tuning).

    Minimises Σ‖Z − Ẑ‖² over training data (Jaderberg et al., 2014, data reconstruction): Z is the
    output (N, T, H', W') of ``layer`` in ``reference``, Ẑ that in ``model``, whose layers below are
    already approximated, so that the layer also makes up for their errors. Labels are not used.
    By Adam, with a learning rate that falls to zero along a cosine.

    Parameters
    ----------
    model : nn.Module
        Changed in place: the parameters of ``layer`` alone.
    reference : nn.Module
        The full network.
    layer : str
        Name of the layer in both.
    loader : Dataset or DataLoader
        Images, with labels or without.
    epochs : int
        Passes over the data.
    lr, batch_size, seed
        Of the optimisation; the seed is that of the order of samples.

    Returns
    -------
    list of dict
        Keys: epoch (from 1), seconds, rel_error (‖Z−Ẑ‖/‖Z‖ over the epoch, as the layer changes).

    Raises
    ------
    ValueError
        A model has no such layer; the two outputs differ in shape or in number; not a positive
        number of epochs; loader has no samples, or NaN.
    """
    if not isinstance(epochs, Integral) or isinstance(epochs, bool) or epochs < 1:
        raise ValueError(f"epochs must be an integer of at least 1, got {epochs!r}")
    student, teacher = find_part(model, layer, "model"), find_part(reference, layer, "reference")
    parameters = [p for p in student.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(f"layer {layer!r} of model has no parameters to train")
    require_trainable(student, f"layer {layer!r} of model")
    optimizer = torch.optim.Adam(parameters, lr)
    steps = epochs * count_batches(loader, batch_size)
    if not steps:
        raise ValueError("loader has no samples")
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    device, history, calls = device_of(model), [], None
    with (
        gradients(),
        evaluation_mode(model),
        evaluation_mode(reference),
        tqdm(total=steps, unit="batch", disable=not progress) as bar,
    ):
        for epoch in range(1, epochs + 1):
            start, rest, whole = time.perf_counter(), 0.0, 0.0
            data = image_batches(loader, batch_size, shuffle=True, seed=seed * 1_000_003 + epoch)
            for images in data:
                images = recordable(images.to(device))
                calls = calls or calls_of(model, student, images)
                # With their hooks, as the models call them.
                targets = [z for _, z in seen(reference, teacher, images, calls, hooked=True)]
                inputs = [x for x, _ in seen(model, student, images, calls, hooked=True)]
                loss = sum(
                    _square_distance(student(x), target, layer)
                    for x, target in zip(inputs, targets, strict=True)
                )
                value = loss.item()
                if not math.isfinite(value):
                    raise ValueError(_not_finite(layer, [images, *inputs, *targets], lr))
                optimizer.zero_grad()
                (loss / len(images)).backward()
                optimizer.step()
                schedule.step()
                rest += value
                whole += sum(target.square().sum().item() for target in targets)
                bar.update()
            seconds = time.perf_counter() - start
            error = (rest / whole) ** 0.5 if whole else 0.0
            history.append({"epoch": epoch, "seconds": seconds, "rel_error": error})
    return history


def input_covariance(model: nn.Module, layer: str, loader, batch_size: int = 64) -> Tensor:
    """Second moments Σ of a layer's input maps over all positions, the metric of Denton et al.

    One pass, in which nothing but Σ is kept. With it, ``decompose(model, {layer: R}, weight=Σ)``
    minimises ‖(K − K̂) Σ^½‖, the change of the outputs where neighbouring pixels are uncorrelated.

    Parameters
    ----------
    model : nn.Module
        Left as it was, on the device it is on.
    layer : str
        A convolution or a fully-connected layer of it.
    loader : Dataset or DataLoader
        Images, with labels or without.

    Returns
    -------
    Tensor, shape (S, S)
        Float64; the mean of x xᵀ over samples and positions, about zero: a mean that all maps share
        is passed on by the layer like any other signal.

    Raises
    ------
    ValueError
        There is no such layer; loader has no samples, or there is NaN or Inf at the layer.
    """
    part, device = find_part(model, layer, "model"), device_of(model)
    total, count, calls = 0.0, 0, None
    with evaluation_mode(model):
        for images in image_batches(loader, batch_size):
            images = images.to(device)
            calls = calls or calls_of(model, part, images)
            for x, _ in seen(model, part, images, calls):
                x = _maps_first(x, part, layer)  # (S, n)
                total, count = total + (x @ x.T).double(), count + x.shape[1]
    if not count:
        raise ValueError("loader has no samples")
    if not total.isfinite().all():
        raise ValueError(f"loader gives NaN or Inf at layer {layer!r}; its maps must be finite")
    return total / count


def _maps_first(x: Tensor, part: nn.Module, layer: str) -> Tensor:
    """Inputs of a layer as (S, n): S is the second axis of a convolution's, a linear one's last."""
    if hasattr(part, "in_features"):
        return x.flatten(0, -2).T
    if hasattr(part, "in_channels"):
        return x.transpose(0, 1).flatten(1)
    raise TypeError(
        f"layer {layer!r} must be a convolution or a fully-connected layer, got "
        f"{type(part).__name__}"
    )


def gradient_weights(
    model: nn.Module, layer: str, loader, batch_size: int = 16
) -> dict[str, Tensor]:
    """Denton et al.'s gradient ("Mahalanobis") metric for a layer, as options of `decompose`.

    A weight w matters by α_w = (Σ (∂loss/∂w)²)^½, summed over small batches of data. A free α
    for every weight leaves no closed-form approximation, so it is replaced by a product of one
    number an input map and one an output map: their root mean squares.

    Parameters
    ----------
    model : nn.Module
        A classifier; left as it was.
    layer : str
        A convolution or a fully-connected layer of it.
    loader : Dataset or DataLoader
        Pairs (images, class numbers), as in :func:`cpnb.accuracy`.

    Returns
    -------
    dict
        ``weight``, a diagonal matrix (S/groups, S/groups) over the input maps of a group, and
        ``output_weight`` (T,): ``decompose(model, {layer: rank}, method=..., **weights)``.
    """
    part = find_part(model, layer, "model")
    if not isinstance(part, (nn.Conv2d, nn.Linear)):
        raise TypeError(
            f"layer {layer!r} must be an nn.Conv2d or nn.Linear, got {type(part).__name__}"
        )
    weight = part._parameters.get("weight")
    if weight is None:
        raise TypeError(
            f"layer {layer!r} must have weights of its own, got weights that a hook or a "
            "parametrization computes; remove it first (torch.nn.utils.parametrize."
            "remove_parametrizations, prune.remove, remove_weight_norm, remove_spectral_norm)"
        )
    require_trainable(model)
    device, was, count = device_of(model), weight.requires_grad, 0
    total = torch.zeros_like(weight, dtype=torch.float64)
    try:
        weight.requires_grad_(True)
        with evaluation_mode(model), gradients():
            for images, labels in batches(loader, batch_size):
                images, labels = (recordable(part.to(device)) for part in (images, labels))
                loss = F.cross_entropy(logits_of(model, images, labels), labels)
                (slope,) = torch.autograd.grad(loss, weight, materialize_grads=True)
                total, count = total + slope.double().square(), count + len(labels)
    finally:
        weight.requires_grad_(was)
    if not count:
        raise ValueError("loader has no samples")
    if not total.isfinite().all():
        raise ValueError(f"the gradient at layer {layer!r} is NaN or Inf; look at loader's images")
    squares = total.flatten(2).mean(2) if total.ndim > 2 else total  # (T, S/groups)
    if not squares.any():
        raise ValueError(f"the loss does not depend on the weights of layer {layer!r}")
    squares = squares / squares.mean()
    floor = 1e-6  # maps that no gradient reaches keep a small say
    return {
        "weight": squares.mean(0).clamp_min(floor).diag(),
        "output_weight": squares.mean(1).clamp_min(floor).sqrt(),
    }


def _not_finite(layer: str, maps: list[Tensor], lr: float) -> str:
    if all(part.isfinite().all() for part in maps):
        return f"the fit of layer {layer!r} diverges; try a lower lr than {lr:g}"
    return f"loader gives NaN or Inf at layer {layer!r}; its maps must be finite"


def _square_distance(output: Tensor, target: Tensor, layer: str) -> Tensor:
    if output.shape != target.shape:
        raise ValueError(
            f"layer {layer!r} gives {tuple(output.shape)} in model and {tuple(target.shape)} in "
            "reference; they must be of one shape"
        )
    return (output - target).square().sum()
