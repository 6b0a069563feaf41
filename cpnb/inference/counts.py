"""Arithmetic of models: the multiplies that a pass takes, to print beside a measured speed-up.

The ratio of multiplies is what the paper (Lebedev et al., arXiv 1412.6553) counts too.
"""

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from cpnb.training.evaluation import device_of, evaluation_mode


def count_multiplies(model: nn.Module, example: Tensor) -> int:
    """Multiplies of one sample's forward pass; see `multiplies_per_layer`."""
    return sum(multiplies_per_layer(model, example).values())


def multiplies_per_layer(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Multiplies of each convolution and fully-connected layer, for one sample.

    Parameters
    ----------
    model : nn.Module
        Run once in evaluation mode.
    example : Tensor
        A batch (N, ...); the count is divided by N.

    Returns
    -------
    dict
        Layer name to d_y * d_x * S / groups multiplies for each of the H' * W' * T outputs, or
        inputs times outputs of a fully-connected layer. Padding counts as data; biases, additions
        and other layers do not count. A layer that runs twice counts twice.
    """
    check_pair("model", model, example)
    counts: dict[str, int] = {}
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
                hook = module.register_forward_hook(_counter(counts, name))
                stack.callback(hook.remove)
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(torch.inference_mode())
        model(example)
    return {name: count // len(example) for name, count in counts.items()}


def _counter(counts: dict[str, int], name: str) -> Callable:
    def count(module, inputs, output):
        # Each output value of a layer takes one multiply for each weight of its filter; in a
        # transposed convolution it is each input value that meets a whole filter.
        values = inputs[0] if getattr(module, "transposed", False) else output
        counts[name] = counts.get(name, 0) + values.numel() * module.weight[0].numel()

    return count


def check_pair(name, model, example) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name}: model must be an nn.Module, got {type(model).__name__}")
    if not isinstance(example, Tensor):
        raise TypeError(f"{name}: example must be a tensor, got {type(example).__name__}")
    if not example.ndim or not len(example):
        raise ValueError(f"{name}: example must hold a batch, got shape {tuple(example.shape)}")
    if next(model.parameters(), None) is not None and device_of(model) != example.device:
        raise ValueError(
            f"{name}: example is on {example.device}, the model on {device_of(model)}; "
            "move one to the other"
        )
