"""Sizes of the maps that layers see, and the multiplies of a factored layer before it is made."""

from __future__ import annotations

from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cpnb.training.evaluation import evaluation_mode


class InputSize(NamedTuple):
    """Shape of a layer's input for a batch, and how many positions go in and come out a sample.

    Positions are (rows, columns) of the maps; of a fully-connected layer all axes but the last
    count as rows.
    """

    shape: tuple[int, ...]
    before: tuple[int, int]
    after: tuple[int, int]


def input_sizes(model: nn.Module, example: Tensor) -> dict[str, InputSize]:
    """Of every convolution and fully-connected layer that ``example`` (N, ...) reaches, in turn."""
    sizes: dict[str, InputSize] = {}

    def noted(name: str):
        def note(module, inputs, output):
            shape = tuple(inputs[0].shape)
            if isinstance(module, nn.Linear):
                rows = output.numel() // output.shape[-1] // len(example)
                sizes[name] = InputSize(shape, (rows, 1), (rows, 1))
            else:
                sizes[name] = InputSize(shape, shape[-2:], tuple(output.shape[-2:]))

        return note

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                stack.callback(module.register_forward_hook(noted(name)).remove)
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(torch.inference_mode())
        model(example)
    return sizes


def factored_multiplies(module: nn.Module, size: InputSize, rank: int) -> int:
    """Multiplies of one sample of a layer factored at a rank (of each group).

    R(S·HW + d_y·H'W + d_x·H'W' + T·H'W') by CP (module `cpnb.layers.cp`); K(S·HW + T·H'W') where
    there is nothing in space to factor: fully-connected layers and 1×1 kernels.
    """
    (h, w), (h2, w2) = size.before, size.after
    if isinstance(module, nn.Linear):
        return rank * h * (module.in_features + module.out_features)
    (dy, dx), groups = module.kernel_size, module.groups
    ends = module.in_channels, module.out_channels * h2 * w2
    if module.kernel_size == (1, 1):
        # scheme 2 of Jaderberg: its first layer takes the vertical stride, its second the other
        return rank * (ends[0] * h2 * w + ends[1])
    return rank * (ends[0] * h * w + groups * (dy * h2 * w + dx * h2 * w2) + ends[1])
