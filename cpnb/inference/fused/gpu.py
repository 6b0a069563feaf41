"""One factored layer through the Triton kernels: the counterpart of `kernel` on a GPU."""

import contextlib
import math

import torch
from torch import Tensor, nn

from cpnb.inference.fused.chain import Chain, Link
from cpnb.inference.fused.native import KernelUnavailable
from cpnb.layers.cp import CPConv2d

GROUPS = (1, 2, 4)  # maxouts by halving
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Kernel:
    """A factored convolution and what follows it on a GPU: (N, S, H, W) -> (N, T, H', W').

    Sums are in float32. Products of float32 are in TF32 where PyTorch's convolutions are
    (``torch.backends.cudnn.conv.fp32_precision``).

    Parameters
    ----------
    chain : Chain
        Its weights are copied in the kernels' own order; later changes to them are not seen.

    Raises
    ------
    ValueError
        The kernels do not cover this layer; the message says why.
    cpnb.inference.fused.native.KernelUnavailable
        There is no Triton, or it does not compile them for this GPU.

    Attributes
    ----------
    chain : Chain
        The given one.
    """

    def __init__(self, chain: Chain):
        reason = uncovered(chain)
        if reason:
            raise ValueError(f"the Triton kernel does not cover this layer: {reason}")
        self._kernels = _kernels()
        self.chain, front, groups = chain, chain.front, chain.groups
        self._weight = weight = chain.links[0].conv.weight.detach()
        self._down = across = None
        if isinstance(front, CPConv2d):
            reduce = _packed(front.reduce.weight, groups)
            self._down = reduce, _packed(front.vertical.weight, groups)
            across = _packed(front.horizontal.weight, groups)
        self._links = [
            _Link(link, groups, weight, across if i == 0 else None)
            for i, link in enumerate(chain.links)
        ]
        self._try()

    def takes(self, x: Tensor) -> bool:
        """Whether x lies where the weights do, in their dtype, with as many channels."""
        alike = x.device == self._weight.device and x.dtype == self._weight.dtype
        return alike and x.shape[1] == self.chain.in_channels

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """The layer's output, in channels_last."""
        chain = self.chain
        height, width = chain.out_size(x.shape[2:])
        maps = x.permute(0, 2, 3, 1).contiguous()
        if not len(x):
            return x.new_empty((0, chain.out_channels, height, width))
        with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
            if self._down is not None:
                maps = self._reduce_vertical(maps, height)
            along = chain.stride[1], chain.dilation[1], chain.padding[1][0]
            for link in self._links:
                maps = self._horizontal_expand(link, maps, width, along)
                along = 1, 1, 0
        return maps.permute(0, 3, 1, 2)

    def _try(self) -> None:
        """Run once on the smallest input: what Triton cannot compile shows here."""
        size = [
            max(1, d * (k - 1) + 1)
            for k, d in zip(self.chain.kernel_size, self.chain.dilation, strict=True)
        ]
        try:
            self(self._weight.new_zeros((1, self.chain.in_channels, *size)))
        except Exception as error:  # Triton's, LLVM's and the driver's errors share no base class
            raise KernelUnavailable(f"Triton does not run the kernel: {error}") from error

    def _reduce_vertical(self, maps: Tensor, height: int) -> Tensor:
        weights, taps = self._down
        samples, rows, columns, _ = maps.shape
        groups, channels, rank = weights.shape
        size, stride, dilation = taps.shape[1], self.chain.stride[0], self.chain.dilation[0]
        tile = {"ROWS": 8, "COLUMNS": 16, "RANKS": 32, "DEPTH": _tile(channels, 64)}
        row_tiles = math.ceil(height / tile["ROWS"])
        grid = (
            samples * row_tiles,
            math.ceil(columns / tile["COLUMNS"]),
            groups * math.ceil(rank / tile["RANKS"]),
        )
        steps = (tile["ROWS"] - 1) * stride + (size - 1) * dilation + 1
        z = maps.new_empty((samples, height, columns, groups * rank))
        self._kernels.reduce_vertical[grid](
            maps, weights, taps, z, channels, rank, rows, columns, height, row_tiles,
            stride, dilation, self.chain.padding[0][0], steps, size, _precision(), **tile,
        )  # fmt: skip
        return z

    def _horizontal_expand(self, link: "_Link", maps: Tensor, width: int, along) -> Tensor:
        samples, height, columns, _ = maps.shape
        groups, rank, outputs = link.weights.shape
        positions = samples * height * width
        tile = {"POSITIONS": 64, "OUTPUTS": _tile(outputs, 64), "RANKS": _tile(rank, 32)}
        grid = (
            math.ceil(positions / tile["POSITIONS"]),
            math.ceil(outputs / tile["OUTPUTS"]),
            groups,
        )
        y = maps.new_empty((samples, height, width, groups * outputs // link.group))
        self._kernels.horizontal_expand[grid](
            maps, link.taps, link.weights, link.bias, y, rank, outputs, positions, columns, width,
            *along, link.taps.shape[1], link.group, link.relu, _precision(), **tile,
        )  # fmt: skip
        return y


class _Link:
    """A 1x1 convolution with the depthwise taps before it, packed by group."""

    def __init__(self, link: Link, groups: int, like: Tensor, taps: Tensor | None):
        conv, self.group, self.relu = link
        self.weights = _packed(conv.weight, groups)  # (groups, R, T)
        self.bias = like.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        # A 1x1 convolution alone has one tap, of 1.
        self.taps = like.new_ones(groups, 1, self.weights.shape[1]) if taps is None else taps


def uncovered(chain: Chain) -> str | None:
    """Why the kernels cannot do this layer, or None."""
    weight = chain.links[0].conv.weight
    if weight.dtype not in DTYPES:
        return f"it is {weight.dtype}, the kernel takes float32, float16 and bfloat16"
    if chain.padding_mode != "zeros":
        return f"padding mode {chain.padding_mode!r}, the kernel takes 'zeros'"
    for _, group, _ in chain.links:
        if group not in GROUPS:
            return f"a maxout over {group}, the kernel takes {GROUPS}"
    pointwise = chain.kernel_size == chain.stride == (1, 1) and chain.padding == ((0, 0), (0, 0))
    if isinstance(chain.front, nn.Conv2d) and not pointwise:
        return "a dense convolution larger than 1x1"
    return None


def _kernels():
    try:
        from cpnb.inference.fused import triton_kernels
    except ImportError as error:
        raise KernelUnavailable(f"Triton is not installed: {error}") from error
    return triton_kernels


def _precision() -> str:
    return "tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "ieee"


def _tile(size: int, most: int) -> int:
    """A power of two from 16, the least that Triton multiplies, to `most`."""
    return min(most, max(16, 1 << (size - 1).bit_length()))


def _packed(weight: Tensor, groups: int) -> Tensor:
    """(groups · O, I, ...) as (groups, I · ..., O)."""
    weight = weight.detach().flatten(1)
    return weight.view(groups, -1, weight.shape[1]).transpose(1, 2).contiguous()
