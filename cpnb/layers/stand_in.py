"""What a factored layer shows of the layer that it stands for.

Models read more of a layer than its output: the dtype of its weight, its number of channels. All of
it that still has a meaning is shown under the name that it had; the weight is rebuilt from the
factors each time it is read, and cannot be set.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cpnb.layers.plain import OPTIONS

COMPUTED = ("weight", "bias")


class StandIn(nn.Module):
    """A factored layer in place of a large one; it stays one for code that only looks at it."""

    # TorchScript would compile them.
    __jit_unused_properties__ = [*COMPUTED, "options", *OPTIONS[nn.Conv2d], *OPTIONS[nn.Linear]]

    def kernel(self) -> Tensor:
        """The rebuilt weights."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """The rebuilt weights, a function of the factors; computed each time it is read."""
        return self.kernel()

    @property
    def bias(self) -> Tensor | None:
        """The bias, one value an output."""
        raise NotImplementedError

    def __setattr__(self, name: str, value) -> None:
        if name in COMPUTED:
            raise AttributeError(
                f"{name} of a {type(self).__name__} cannot be set: it is rebuilt from the factors; "
                "to fuse a batch normalisation or the like, do so before the layer is decomposed"
            )
        super().__setattr__(name, value)


def _option(name: str) -> property:
    return property(lambda self: self.options[name], doc=f"`{name}` of the convolution replaced.")


class ConvStandIn(StandIn):
    """One in place of an ``nn.Conv2d``: a subclass has its ``options``, ``kernel`` and ``bias``."""

    options: dict

    in_channels, out_channels = _option("in_channels"), _option("out_channels")
    kernel_size, groups = _option("kernel_size"), _option("groups")
    stride, dilation = _option("stride"), _option("dilation")
    padding, padding_mode = _option("padding"), _option("padding_mode")

    @torch.no_grad()
    def to_conv(self) -> nn.Conv2d:
        """The dense ``nn.Conv2d``: rebuilt kernel (T, S/groups, d_y, d_x), the same options."""
        kernel, bias = self.kernel(), self.bias
        place = {"device": kernel.device, "dtype": kernel.dtype}
        conv = nn.Conv2d(**self.options, bias=bias is not None, **place)
        conv.weight.copy_(kernel)
        if bias is not None:
            conv.bias.copy_(bias)
        return conv.train(self.training)
