"""A convolution and the layers behind it that act on each position alone.

What a fused kernel takes in one go: a factored or dense convolution, then any number of 1x1
convolutions, each followed by a maxout, a ReLU or nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn
from torch.nn.utils import parametrize

from cpnb.layers.cp import CPConv2d
from cpnb.nets.charnet import Maxout

NO_EFFECT = (nn.Identity, nn.Dropout, nn.Dropout2d)  # in evaluation mode
PARTS = ("reduce", "vertical", "horizontal", "expand")
FUSED = (CPConv2d, nn.Conv2d, Maxout, nn.ReLU, *NO_EFFECT)


class Link(NamedTuple):
    """A convolution, the maxout's group behind it (1 for none), and whether a ReLU follows."""

    conv: nn.Conv2d
    group: int
    relu: bool


class Chain:
    """The layers read as one convolution and its links.

    Parameters
    ----------
    layers : sequence of nn.Module
        A `CPConv2d` or `nn.Conv2d`, then as many of the layers behind it as belong to the chain.

    Attributes
    ----------
    length : int
        How many of the given layers the chain takes.
    links : list of Link
        The first is of the convolution itself (of its `expand`, if it is factored).

    Raises
    ------
    ValueError
        The first layer computes something else than its type and weights tell.
    """

    def __init__(self, layers: Sequence[nn.Module]):
        self.front = front = layers[0]
        if reason := foreign(front):
            raise ValueError(f"a chain must begin with a plain layer; of {front}: {reason}")
        factored = isinstance(front, CPConv2d)
        down, across = (front.vertical, front.horizontal) if factored else (front, front)
        self.groups = front.expand.groups if factored else front.groups
        self.kernel_size = down.kernel_size[0], across.kernel_size[1]
        self.stride = down.stride[0], across.stride[1]
        self.dilation = down.dilation[0], across.dilation[1]
        self.padding_mode = down.padding_mode
        # As PyTorch keeps them for its own use: from the last axis to the first, low before high.
        self.padding = (
            tuple(down._reversed_padding_repeated_twice[2:]),
            tuple(across._reversed_padding_repeated_twice[:2]),
        )
        self.links, self.length = _links(front.expand if factored else front, layers)

    @property
    def in_channels(self) -> int:
        """Channels of the chain's input."""
        return (self.front.reduce if isinstance(self.front, CPConv2d) else self.front).in_channels

    @property
    def out_channels(self) -> int:
        """Channels of the chain's output."""
        return self.links[-1].conv.out_channels // self.links[-1].group

    def out_size(self, size: Sequence[int]) -> tuple[int, int]:
        """(H', W') for an input of (H, W).

        Raises
        ------
        ValueError
            The input is smaller than the kernel.
        """
        extent = [d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True)]
        padded = [n + sum(pad) for n, pad in zip(size, self.padding, strict=True)]
        if any(n < e for n, e in zip(padded, extent, strict=True)):
            raise ValueError(
                f"the input's maps must be at least as large as the kernel, {tuple(extent)}; "
                f"got {tuple(padded)}, padding included"
            )
        return tuple((n - e) // s + 1 for n, e, s in zip(padded, extent, self.stride, strict=True))


def _links(conv: nn.Conv2d, layers: Sequence[nn.Module]) -> tuple[list[Link], int]:
    links, length, open_ = [Link(conv, 1, False)], 1, True
    for i, layer in enumerate(layers[1:], start=2):
        last = links[-1]
        if foreign(layer):
            break
        if type(layer) in NO_EFFECT:
            continue
        if type(layer) is Maxout and open_ and _divides(layer.groups, last.conv):
            links[-1], open_ = last._replace(group=layer.groups), False
        elif type(layer) is nn.ReLU and open_:
            links[-1], open_ = last._replace(relu=True), False
        elif _is_link(layer, links):
            links.append(Link(layer, 1, False))
            open_ = True
        else:
            break
        length = i
    return links, length


def foreign(layer: nn.Module) -> str | None:
    """Why a layer's type and weights do not tell all that it computes, or None.

    Hooks are left to others: they may come and go.
    """
    if "forward" in vars(layer):
        return "its forward was replaced"
    if isinstance(layer, CPConv2d):
        return _foreign_factored(layer)
    if parametrize.is_parametrized(layer):
        return "its weights are parametrized"
    if type(layer) not in FUSED:
        return f"{type(layer).__name__} may compute something of its own"
    loose = [name for name in ("weight", "bias") if name in vars(layer)]
    return f"its {loose[0]} is no parameter, but set from outside" if loose else None


def _foreign_factored(layer: CPConv2d) -> str | None:
    if type(layer).forward is not CPConv2d.forward:
        return f"{type(layer).__name__} computes something of its own"
    for name in PARTS:
        part = layer._modules.get(name)
        if not isinstance(part, nn.Conv2d):
            return f"its {name} is a {type(part).__name__}"
        if reason := foreign(part):
            return f"of its {name}: {reason}"
    return None


def _divides(group: int, conv: nn.Conv2d) -> bool:
    return conv.out_channels % (group * conv.groups) == 0


def _is_link(layer: nn.Module, links: list[Link]) -> bool:
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size == layer.stride == (1, 1)
        and set(layer._reversed_padding_repeated_twice) == {0}
        and layer.groups == links[0].conv.groups == 1
        and layer.weight.dtype == links[0].conv.weight.dtype
        and layer.weight.device == links[0].conv.weight.device
        and layer.in_channels == links[-1].conv.out_channels // links[-1].group
    )
