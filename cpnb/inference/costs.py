"""What a layer costs, dense and factored at any rank: multiplies counted, milliseconds measured.

Each layer is timed by itself, on maps of the size that it sees, in the runtime that is fastest for
it: dense, and factored at two ranks with random factors, between and beyond which the time is taken
to be a straight line in the rank (a fixed part for the layer's calls and the input, a part for each
term).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cpnb.inference.contest import least_milliseconds
from cpnb.inference.shapes import InputSize, factored_multiplies
from cpnb.layers.copies import copied
from cpnb.layers.cp import CPConv2d
from cpnb.layers.jaderberg import VerticalHorizontal
from cpnb.layers.svd import SVDLinear

SECONDS = 0.05  # for each contender and layout: a plan tells layers apart, it is no benchmark


class Cost(NamedTuple):
    """Cost of one layer, in multiplies of one sample or milliseconds of the example's batch.

    ``dense`` as it is; factored at a rank R: ``fixed`` + ``each`` · R.
    """

    dense: float
    fixed: float
    each: float

    def scaled(self, factor: float) -> Cost:
        """All of it times a factor."""
        return Cost(*(factor * part for part in self))

    def __call__(self, rank: int | None) -> float:
        return self.dense if rank is None else self.fixed + self.each * rank


def multiplies_cost(module: nn.Module, size: InputSize, count: int) -> Cost:
    """Multiplies of one sample."""
    return Cost(count, 0.0, factored_multiplies(module, size, 1))


def milliseconds_cost(module: nn.Module, size: InputSize, ranks: list[int]) -> Cost:
    """Milliseconds of a batch on this machine, from the dense layer and two of the ranks.

    With no ranks, of the dense layer alone.
    """
    low, high = (ranks[0], ranks[-1]) if ranks else (0, 0)
    layers = {"dense": module} | {rank: random_factored(module, rank) for rank in {low, high} - {0}}
    x = torch.randn(size.shape, device=module.weight.device, dtype=module.weight.dtype)
    seconds = SECONDS if ranks else SECONDS / 5  # a layer that stays dense only adds to the sum
    ms = least_milliseconds({name: copied(layer) for name, layer in layers.items()}, x, seconds)
    if not ranks:
        return Cost(ms["dense"], math.nan, math.nan)
    each = (ms[high] - ms[low]) / (high - low) if high > low else ms[low] / low
    each = max(each, 0.0)  # noise can make it fall
    return Cost(ms["dense"], max(ms[low] - each * low, 0.0), each)


def dense_milliseconds(model: nn.Module, example: Tensor) -> float:
    """Milliseconds of a whole network in its fastest runtime."""
    return least_milliseconds({"dense": copied(model)}, example, 5 * SECONDS)["dense"]


@torch.no_grad()
def random_factored(module: nn.Module, rank: int) -> nn.Module:
    """A layer of the shape that the plan's method gives, whose factors are PyTorch's own start."""
    if isinstance(module, nn.Linear):
        return SVDLinear(module, rank)
    if module.kernel_size != (1, 1):
        return CPConv2d(module, rank)
    s, t, groups = module.in_channels, module.out_channels, module.groups
    empty = (
        module.weight.new_empty(rank, s // groups, 1),
        module.weight.new_empty(t // groups, rank, 1),
    )
    return VerticalHorizontal(module, rank, [tuple(part.normal_() for part in empty)] * groups)
