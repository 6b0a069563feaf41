"""What the data say about one layer: Jaderberg's data reconstruction, Denton's gradient metric.

Both look at a layer in its place in the network, one pass over batches of training data at a time.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from cpnb.training.evaluation import batches, count_batches, device_of, evaluation_mode, logits_of


class _Reached(Exception):
    """The forward pass has come to the layer and need not go on."""


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
        Pairs (images, labels).
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
        A model has no such layer; the two outputs differ in shape; not a positive number of epochs.
    """
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs must be an integer of at least 1, got {epochs!r}")
    student, teacher = find_part(model, layer, "model"), find_part(reference, layer, "reference")
    parameters = [p for p in student.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(f"layer {layer!r} of model has no parameters to train")
    optimizer = torch.optim.Adam(parameters, lr)
    steps = epochs * count_batches(loader, batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    device, history = device_of(model), []
    with (
        evaluation_mode(model),
        evaluation_mode(reference),
        tqdm(total=steps, unit="batch", disable=not progress) as bar,
    ):
        for epoch in range(1, epochs + 1):
            start, rest, whole = time.perf_counter(), 0.0, 0.0
            data = batches(loader, batch_size, shuffle=True, seed=seed * 1_000_003 + epoch)
            for images, _ in data:
                images = images.to(device)
                target = seen(reference, teacher, images)[1]
                loss = _square_distance(student(seen(model, student, images)[0]), target, layer)
                optimizer.zero_grad()
                (loss / len(images)).backward()
                optimizer.step()
                schedule.step()
                rest, whole = rest + loss.item(), whole + target.square().sum().item()
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
        Pairs (images, labels); the labels are not used.

    Returns
    -------
    Tensor, shape (S, S)
        Float64; the mean of x xᵀ over samples and positions, about zero: a mean that all maps share
        is passed on by the layer like any other signal.
    """
    part, device = find_part(model, layer, "model"), device_of(model)
    total, count = 0.0, 0
    with evaluation_mode(model):
        for images, _ in batches(loader, batch_size):
            x = seen(model, part, images.to(device))[0]
            x = x.transpose(0, 1).flatten(1) if x.ndim == 4 else x.flatten(0, -2).T  # (S, n)
            total, count = total + (x @ x.T).double(), count + x.shape[1]
    if not count:
        raise ValueError("loader has no samples")
    return total / count


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
        Pairs (images, integer labels).

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
    device, total = device_of(model), torch.zeros_like(part.weight, dtype=torch.float64)
    was = part.weight.requires_grad
    try:
        part.weight.requires_grad_(True)
        with evaluation_mode(model), torch.enable_grad():
            for images, labels in batches(loader, batch_size):
                images, labels = images.to(device), labels.to(device)
                loss = F.cross_entropy(logits_of(model, images, labels), labels)
                total += torch.autograd.grad(loss, part.weight)[0].double().square()
    finally:
        part.weight.requires_grad_(was)
    squares = total.flatten(2).mean(2) if total.ndim > 2 else total  # (T, S/groups)
    if not squares.any():
        raise ValueError(f"the loss does not depend on the weights of layer {layer!r}")
    squares = squares / squares.mean()
    floor = 1e-6  # maps that no gradient reaches keep a small say
    return {
        "weight": squares.mean(0).clamp_min(floor).diag(),
        "output_weight": squares.mean(1).clamp_min(floor).sqrt(),
    }


def find_part(model: nn.Module, name: str, argument: str) -> nn.Module:
    """The part of that name, or a ValueError that says which ``argument`` lacks it."""
    parts = dict(model.named_modules())
    if not name or name not in parts:
        known = ", ".join(n for n, _ in model.named_children())
        raise ValueError(f"{argument} has no layer {name!r}; its parts are {known}")
    return parts[name]


@torch.no_grad()
def seen(model: nn.Module, part: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Input and output of a part when the model runs; what comes after it is not computed."""
    found = []

    def stop(module, inputs, output):
        found.extend((inputs[0], output))
        raise _Reached

    hook = part.register_forward_hook(stop)
    try:
        model(images)
    except _Reached:
        return found[0], found[1]
    finally:
        hook.remove()
    raise ValueError("the layer takes no part in the model's forward pass")


def _square_distance(output: Tensor, target: Tensor, layer: str) -> Tensor:
    if output.shape != target.shape:
        raise ValueError(
            f"layer {layer!r} gives {tuple(output.shape)} in model and {tuple(target.shape)} in "
            "reference; they must be of one shape"
        )
    return (output - target).square().sum()
