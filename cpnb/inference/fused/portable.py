"""The fused chain in plain PyTorch: any device and dtype, and differentiable.

Strips of rows go through the whole chain before the next ones, so that wide maps stay in the cache
and are never all in memory; a maxout takes one narrow product a candidate in place of a wide one.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from cpnb.inference.fused.chain import Chain, Link
from cpnb.layers.cp import CPConv2d

WIDE_VALUES = 2**20  # of the widest map of a strip: 4 MiB in float32


class Kernel:
    """A chain computed strip by strip: (N, S, H, W) -> (N, T, H', W')."""

    def __init__(self, chain: Chain):
        self.chain = chain

    def takes(self, x: Tensor) -> bool:
        """Whether x has as many channels."""
        return x.shape[1] == self.chain.in_channels

    def __call__(self, x: Tensor) -> Tensor:
        """The layer's output, in channels_last."""
        return _run(self.chain, x)


def _run(chain: Chain, x: Tensor) -> Tensor:
    height, width = chain.out_size(x.shape[2:])
    result = x.new_empty((len(x), height, width, chain.out_channels)).permute(0, 3, 1, 2)
    mode = "constant" if chain.padding_mode == "zeros" else chain.padding_mode
    down, across = chain.padding
    if any(down + across):
        x = F.pad(x, (*across, *down), mode=mode)
    x = x.contiguous(memory_format=torch.channels_last)
    samples, rows = _strip(chain, height, width)
    step, extent = chain.stride[0], chain.dilation[0] * (chain.kernel_size[0] - 1) + 1
    for n in range(0, len(x), samples):
        for top in range(0, height, rows):
            count = min(rows, height - top)
            strip = x[n : n + samples, :, top * step : (top + count - 1) * step + extent]
            result[n : n + samples, :, top : top + count] = _chain(chain, strip)
    return result


def _strip(chain: Chain, height: int, width: int) -> tuple[int, int]:
    """Samples and rows of a strip."""
    widest = max(conv.out_channels // group for conv, group, _ in chain.links)
    rows = max(1, WIDE_VALUES // (widest * width))
    return (max(1, rows // height), height) if rows >= height else (1, rows)


def _chain(chain: Chain, x: Tensor) -> Tensor:
    front = chain.front
    if isinstance(front, CPConv2d):
        x = F.conv2d(x, front.reduce.weight, groups=front.reduce.groups)
        for part in (front.vertical, front.horizontal):  # padded already
            x = F.conv2d(x, part.weight, None, part.stride, 0, part.dilation, part.groups)
        first = _link(chain.links[0], x, {"groups": chain.groups})
    else:
        options = {"stride": chain.stride, "dilation": chain.dilation, "groups": chain.groups}
        first = _link(chain.links[0], x, options)
    for link in chain.links[1:]:
        first = _link(link, first, {})
    return first


def _link(link: Link, x: Tensor, options: dict) -> Tensor:
    conv, group, relu = link
    best = None
    for i in range(group):
        bias = None if conv.bias is None else conv.bias[i::group]
        maps = F.conv2d(x, conv.weight[i::group], bias, **options)
        best = maps if best is None else torch.maximum(best, maps)
    return torch.relu(best) if relu else best
