"""One layer through the compiled kernel: its weights packed once, then called like a function."""

import ctypes

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpnb.inference.fused import native
from cpnb.inference.fused.chain import Chain
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
        self._library = native.library()
        self._lanes, self._sums = self._library.cpnb_lanes(), self._library.cpnb_sums()
        self._kept: list[Tensor] = []  # what the structures below point to
        self.chain = chain
        front, groups = chain.front, chain.groups
        self._factored = isinstance(front, CPConv2d)
        self._reduce = self._down = self._across = None
        if self._factored:
            reduce = front.reduce.weight.flatten(1).chunk(groups)
            width = -(-front.rank // self._lanes) * self._lanes
            self._reduce = (native.Product * groups)(
                *(self._product(_padded(weight, width), None) for weight in reduce)
            )
            self._down = self._filter(front.vertical.weight, groups, width)
            self._across = self._filter(front.horizontal.weight, groups, width)
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
        if result.numel() and self._library.cpnb_run(call, x.data_ptr(), result.data_ptr()):
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
        rank, links = chain.front.rank if self._factored else 0, self._links
        if not self._factored:  # padded before it comes here
            rows, columns, top, left = rows + top + bottom, columns + left + right, 0, 0
            links = (native.Product * len(links))(*links)
            links[0].tap_stride = columns * channels * chain.dilation[0]
        geometry = native.Geometry(
            *(samples, rows, columns, channels // groups),
            *(height, width, chain.out_channels // groups, groups),
            *(*chain.kernel_size, *chain.stride, top, left, *chain.dilation, rank, threads),
        )
        filters = _pointer(self._down), _pointer(self._across)
        call = native.Call(geometry, self._reduce, *filters, links, len(links) // groups)
        if len(self._plans) >= MOST_PLANS:
            self._plans.clear()
        maps = chain.out_channels
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
                    self._product(w.flatten(1), b, group, relu, taps=w.shape[1])
                    for w, b in zip(weights, biases, strict=True)
                ]
            )
        by_group = [link[g] for g in range(groups) for link in links]
        return (native.Product * len(by_group))(*by_group)

    def _product(self, weight: Tensor, bias, group=1, relu=False, taps=1) -> native.Product:
        """Pack a matrix (T, K): for each panel of some vectors of outputs, K rows of them.

        The `group` candidates for one output are neighbours among the vectors.
        """
        outputs, depth = weight.shape[0] // group, weight.shape[1]
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        both = torch.cat([weight, bias[:, None]], 1).detach().float()
        vectors = -(-outputs // self._lanes)
        both = _padded(both.view(outputs, group, depth + 1), vectors * self._lanes)
        both = both.view(vectors, self._lanes, group, depth + 1).permute(0, 2, 3, 1)
        both = both.reshape(vectors * group, depth + 1, self._lanes)
        if group == 1:
            panels = both.tensor_split(-(-vectors // self._sums))  # even, the larger ones first
        else:
            panels = both.split(3 if group == 3 else self._sums)
        weights = torch.cat([panel[:, :-1].transpose(0, 1).flatten() for panel in panels])
        return native.Product(
            *(taps, 0, depth // taps, outputs, group, relu),
            *(self._keep(weights), self._keep(both[:, -1])),
        )

    def _filter(self, weight: Tensor, groups: int, width: int) -> Tensor:
        """Depthwise filters (groups R, 1, d, 1) as (groups, planes, d, lanes)."""
        taps = weight.detach().flatten(1)
        taps = torch.stack([_padded(part, width) for part in taps.chunk(groups)])
        taps = taps.view(groups, width // self._lanes, self._lanes, -1).transpose(2, 3)
        return taps.float().contiguous()

    def _keep(self, values: Tensor) -> int:
        self._kept.append(values.contiguous())
        return self._kept[-1].data_ptr()


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


def _padded(tensor: Tensor, length: int) -> Tensor:
    """Zeros behind the first axis, up to `length`."""
    return F.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, length - len(tensor)))


def _pointer(tensor: Tensor | None):
    return None if tensor is None else tensor.data_ptr()
