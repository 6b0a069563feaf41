"""Weights in the order that the compiled kernels read them, and structures that point to them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cpnb.inference.fused import native

ACTIVATIONS = {None: 0, "relu": 1, "relu6": 2, "silu": 3}  # as in arithmetic.h


class Packer:
    """Packs weights, and keeps them for as long as it lives."""

    def __init__(self):
        self.library = native.library()
        self.lanes, self._sums = self.library.cpnb_lanes(), self.library.cpnb_sums()
        self._kept: list[Tensor] = []

    def product(
        self, weight: Tensor, bias, group=1, activation=None, taps=1, residual=0
    ) -> native.Product:
        """Pack a matrix (T, K): for each panel of some vectors of outputs, K rows of them.

        The `group` candidates for one output are neighbours among the vectors.
        """
        outputs, depth = weight.shape[0] // group, weight.shape[1]
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        both = torch.cat([weight, bias[:, None]], 1).detach().float()
        vectors = -(-outputs // self.lanes)
        both = padded(both.view(outputs, group, depth + 1), vectors * self.lanes)
        both = both.view(vectors, self.lanes, group, depth + 1).permute(0, 2, 3, 1)
        both = both.reshape(vectors * group, depth + 1, self.lanes)
        if group == 1:
            panels = both.tensor_split(-(-vectors // self._sums))  # even, the larger ones first
        else:
            panels = both.split(3 if group == 3 else self._sums)
        weights = torch.cat([panel[:, :-1].transpose(0, 1).flatten() for panel in panels])
        return native.Product(
            *(taps, 0, depth // taps, outputs, group, ACTIVATIONS[activation], residual),
            *(self.keep(weights), self.keep(both[:, -1])),
        )

    def filters(self, weight: Tensor, groups: int, width: int) -> int:
        """Depthwise filters (groups R, d) as (groups, planes, d, lanes)."""
        taps = torch.stack([padded(part, width) for part in weight.detach().chunk(groups)])
        taps = taps.view(groups, width // self.lanes, self.lanes, -1).transpose(2, 3)
        return self.keep(taps.float())

    def width(self, channels: int) -> int:
        """Channels in whole vectors."""
        return -(-channels // self.lanes) * self.lanes

    def keep(self, values: Tensor) -> int:
        """The address of the values, which stays theirs."""
        place = torch.empty(values.shape)
        self.library.cpnb_wish_huge_pages(place.data_ptr(), 4 * place.numel())
        self._kept.append(place.copy_(values))
        return place.data_ptr()

    def array(self, products: list):
        """The products one after the other."""
        return (native.Product * len(products))(*products)


def padded(tensor: Tensor, length: int) -> Tensor:
    """Zeros behind the first axis, up to `length`."""
    return F.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, length - len(tensor)))
