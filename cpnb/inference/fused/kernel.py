"""One layer through the compiled kernel: its weights packed once, then called like a function."""

import ctypes

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpnb.inference.fused import native
from cpnb.inference.fused.chain import Chain
from cpnb.inference.fused.packing import Packer, padded
from cpnb.layers.cp import CPConv2d

GROUPS = (1, 2, 3, 4)  # maxouts that the kernel holds in registers
MOST_PLANS = 64  # input shapes that are remembered


class Kernel:
    """A convolution and what follows it, float32 on the CPU: (N, S, H, W) -> (N, T, H', W').

    Parameters
    ----------
    chain : Chain
        Its weights are copied in the kernel's own order; later changes to them are not seen.

    Raises
    ------
    ValueError
        The kernel does not cover this layer; the message says why.
    cpnb.inference.fused.native.KernelUnavailable
        It cannot be built on this machine.

    Attributes
    ----------
    chain : Chain
        The given one.
    """

    def __init__(self, chain: Chain):
        reason = uncovered(chain)
        if reason:
            raise ValueError(f"the compiled kernel does not cover this layer: {reason}")
        self._packer = packer = Packer()
        self.chain = chain
        front, groups = chain.front, chain.groups
        self._factored = isinstance(front, CPConv2d)
        self._reduce = self._down = self._across = None
        if self._factored:
            reduce = front.reduce.weight.flatten(1).chunk(groups)
            width = packer.width(front.rank)
            self._reduce = packer.array([packer.product(padded(w, width), None) for w in reduce])
            self._down = packer.filters(front.vertical.weight.flatten(1), groups, width)
            self._across = packer.filters(front.horizontal.weight.flatten(1), groups, width)
        self._links, self._channels = self._products(groups), chain.in_channels
        (top, bottom), (left, right) = chain.padding
        margin = (left, right, top, bottom)
        self._margin = margin if not self._factored and any(margin) else None
        self._plans = {}

    def takes(self, x: Tensor) -> bool:
        """Whether x is float32 on the CPU, with as many channels."""
        return x.is_cpu and x.dtype == torch.float32 and x.shape[1] == self._channels

    def __call__(self, x: Tensor) -> Tensor:
        """The layer's output, in channels_last."""
        key = x.shape, torch.get_num_threads()
        size, strides, call = self._plans.get(key) or self._plan(*key)
        if self._margin:
            x = F.pad(x, self._margin)
        x = x.contiguous(memory_format=torch.channels_last)
        result = x.new_empty_strided(size, strides)
        if result.numel() and self._packer.library.cpnb_run(call, x.data_ptr(), result.data_ptr()):
            raise MemoryError("the compiled kernel could not allocate its buffers")
        return result

    def _plan(self, shape: torch.Size, threads: int):
        """The result's size and strides, and what a call on such input hands over.

        Kept: to build it takes as long as a small layer.
        """
        chain, groups = self.chain, self.chain.groups
        samples, channels, rows, columns = shape
        height, width = chain.out_size((rows, columns))
        (top, bottom), (left, right) = chain.padding
        maps = chain.out_channels
        rank, links = chain.front.rank if self._factored else 0, self._links
        if not self._factored:  # padded before it comes here
            rows, columns, top, left = rows + top + bottom, columns + left + right, 0, 0
            links = (native.Product * len(links))(*links)
            links[0].tap_stride = columns * channels * chain.dilation[0]
        geometry = native.Geometry(
            *(samples, rows, columns, channels // groups),
            *(height, width, chain.out_channels // groups, groups),
            *(*chain.kernel_size, *chain.stride, top, left, *chain.dilation, rank, threads),
            *(channels, columns * channels, rows * columns * channels),
            *(maps, width * maps, height * width * maps),
        )
        filters = self._down, self._across
        call = native.Call(geometry, self._reduce, *filters, links, len(links) // groups)
        if len(self._plans) >= MOST_PLANS:
            self._plans.clear()
        strides = height * width * maps, 1, width * maps, maps  # channels_last
        plan = (samples, maps, height, width), strides, ctypes.pointer(call)
        self._plans[shape, threads] = plan
        return plan

    def _products(self, groups: int):
        links = []
        for conv, group, relu in self.chain.links:
            biases = [None] * groups if conv.bias is None else conv.bias.chunk(groups)
            # The last kernel axes are (row, column, channel), as a row of NHWC maps lies in memory.
            weights = conv.weight.permute(0, 2, 3, 1).chunk(groups)
            links.append(
                [
                    self._packer.product(
                        w.flatten(1), b, group, "relu" if relu else None, taps=w.shape[1]
                    )
                    for w, b in zip(weights, biases, strict=True)
                ]
            )
        return self._packer.array([link[g] for g in range(groups) for link in links])


def uncovered(chain: Chain) -> str | None:
    """Why the kernel cannot do this layer, or None."""
    weight = chain.links[0].conv.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return f"it is {weight.dtype} on {weight.device}, the kernel takes float32 on the CPU"
    if chain.padding_mode != "zeros":
        return f"padding mode {chain.padding_mode!r}, the kernel takes 'zeros'"
    for _, group, _ in chain.links:
        if group not in GROUPS:
            return f"a maxout over {group}, the kernel takes {GROUPS}"
    if isinstance(chain.front, nn.Conv2d) and (chain.groups > 1 or chain.dilation[1] > 1):
        return "a dense convolution with groups or a horizontal dilation"
    return None
