"""Exact convolution for large kernels on CPUs, two to four times faster in training.

CharNet's kernels of 9x9 and 8x8 are far larger than those that CPU libraries are tuned for. Two
textbook forms of the same sum serve better there: a matrix product over gathered patches, where
one input map or one output position keeps that matrix small, and elsewhere a product of spectra
(Mathieu et al., "Fast training of convolutional networks through FFTs", ICLR 2014). Training
uses them; a latency is of the library's own convolution unless it is marked "by FFT".
"""

from collections.abc import Callable
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAST_AREA = 49  # kernels from 7x7 on gain; smaller ones are what libraries are tuned for
LEAST_SAMPLES = 32
MOST_GATHERED = 2**25  # values in the matrix of patches: 128 MiB in float32


@contextmanager
def fast_convolutions(model: nn.Module):
    """Within the block, the model's large-kernel convolutions are computed by this module.

    Weights, gradients and outputs are those of the plain model up to rounding. Other layers, and
    models that are not on a CPU, are left alone.
    """
    layers = [module for module in model.modules() if _gains(module)]
    try:
        for layer in layers:
            layer.forward = partial(_forward, layer)
        yield
    finally:
        for layer in layers:
            del layer.forward


def conv2d_by_patches(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Valid convolution as one matrix product: (N, S, H, W), (T, S, d, e) -> (N, T, H', W').

    The left matrix holds one gathered patch a row, N H' W' rows of S d e values; the result is
    channels_last.
    """
    height, width = weight.shape[2:]
    patches = x.unfold(2, height, 1).unfold(3, width, 1)  # (N, S, H', W', d, e)
    samples, _, rows, columns = patches.shape[:4]
    patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(samples * rows * columns, -1)
    result = F.linear(patches, weight.flatten(1), bias)
    return result.view(samples, rows, columns, -1).permute(0, 3, 1, 2)


def conv2d_by_fft(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Valid convolution as a product of spectra: (N, S, H, W), (T, S, d, e) -> (N, T, H', W').

    A correlation on the torus of the input's own size: only outputs that are not valid ones wrap
    around, and these are cut off. About 2 S T H W multiplies replace S T d e H' W'.
    """
    size, (height, width) = x.shape[2:], weight.shape[2:]
    spectrum = torch.einsum(
        "nsuv,tsuv->ntuv", torch.fft.rfft2(x), torch.fft.rfft2(weight, s=size).conj()
    )
    maps = torch.fft.irfft2(spectrum, s=size)[:, :, : size[0] - height + 1, : size[1] - width + 1]
    return maps if bias is None else maps + bias[:, None, None]


def _gains(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and "forward" not in vars(module)  # somebody's own stays
        and module.weight.device.type == "cpu"
        and module.weight.dtype in (torch.float32, torch.float64)
        and module.weight[0, 0].numel() >= LEAST_AREA
        and module.groups == 1
        and set(module.stride + module.dilation) == {1}
        and module.padding in ((0, 0), "valid")
    )


def _forward(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return _form(x, layer.weight)(x, layer.weight, layer.bias)


def _form(x: Tensor, weight: Tensor) -> Callable:
    """The fastest form for these shapes."""
    (rows, columns), (height, width) = x.shape[-2:], weight.shape[2:]
    if x.ndim != 4 or rows < height or columns < width:
        return F.conv2d
    positions = (rows - height + 1) * (columns - width + 1)
    gathered = len(x) * positions * weight[0].numel()
    if (weight.shape[1] == 1 or positions == 1) and gathered <= MOST_GATHERED:
        return conv2d_by_patches
    # The spectra of the kernel are worth it if they are small and many samples share them.
    if len(x) >= LEAST_SAMPLES and rows * columns <= 8 * height * width:
        return conv2d_by_fft
    return F.conv2d
