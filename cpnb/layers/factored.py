"""What every factored layer has in common: the layer it replaces, and the way back to it.

The methods that the paper (Lebedev et al., ICLR 2015) is compared with replace a convolution by a
few smaller ones. They differ in the shape of these; stride, padding, dilation, groups, bias and the
norm of the approximation are dealt with here, once.
"""

from __future__ import annotations

import math
import operator
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn

from cpnb.cp.norms import Metric
from cpnb.layers.plain import OPTIONS, SPATIAL, plain
from cpnb.layers.stand_in import ConvStandIn, StandIn


class Factored(StandIn):
    """A layer of several plain ones in place of one large layer.

    Attributes
    ----------
    rank
        As it was given to the method that made the layer.
    rel_error : float
        ‖W−Ŵ‖/‖W‖ of the weights when the layer was made, in plain L2 whatever the metric of the
        fit; it does not follow later training.
    """

    def __init__(self, rank):
        super().__init__()
        self.rank = rank
        self.rel_error = math.nan

    def extra_repr(self) -> str:
        return f"rank={self.rank}, rel_error={self.rel_error:.3g}"


class FactoredConv2d(ConvStandIn, Factored):
    """Base of the rivals' layers.

    A subclass says how it approximates kernels (``fit``), builds its parts from the result
    (``__init__``), rebuilds the kernel (``kernel``) and names its parts in the order they run
    (``CHAIN``), or computes by itself (``forward``). Its part ``first`` sees the S input maps, its
    part ``last`` makes the T output maps and carries the bias.
    """

    CHAIN: tuple[str, ...] = ()
    first: nn.Conv2d
    last: nn.Conv2d

    def __init__(self, conv: nn.Conv2d, rank):
        super().__init__(rank)
        self.options = {name: getattr(conv, name) for name in OPTIONS[nn.Conv2d]}

    @classmethod
    @torch.no_grad()
    def from_conv(cls, conv: nn.Conv2d, rank, weight=None, output_weight=None, **options):
        """Approximate a convolution's kernel and return the factored layer.

        Parameters
        ----------
        conv : nn.Conv2d
            Kernel (T, S/groups, d_y, d_x); left untouched. Groups are approximated one by one; one
            that is all zeros stays so.
        rank
            What the subclass says; of each group.
        weight : Tensor, shape (S, S) or (S/groups, S/groups), optional
            Second moments Σ of the input maps: minimises ‖(W−Ŵ)Σ^½‖ in place of ‖W−Ŵ‖.
        output_weight : Tensor, shape (T,), optional
            Weight of each output map in that norm.
        **options
            Those of the subclass's ``fit``.

        Returns
        -------
        FactoredConv2d
            On ``conv``'s device and in its dtype and training mode.

        Raises
        ------
        TypeError, ValueError
            What :func:`cpnb.layers.plain.plain` says of ``conv``; a rank or an option that the
            method does not take; weights that are all zero or not finite.
        """
        conv = plain(conv)
        rank = cls.check(conv, rank, **options)
        groups = conv.groups
        metric = Metric.of(conv, conv.in_channels, conv.out_channels, groups, weight, output_weight)
        if not metric.diagonal:
            cls.check_mixing()
        kernels = check_weights(conv.weight.detach().double()).chunk(groups)
        scaled = [metric.apply(kernel, g) for g, kernel in enumerate(kernels)]
        layer = cls(conv, rank, [cls.fit(kernel, rank, **options) for kernel in scaled])
        layer._unscale(metric)
        layer._settle(conv)
        return layer

    @classmethod
    def check(cls, conv: nn.Conv2d, rank, **options):
        """The rank in Python's own numbers; raise if the method does not fit it or the layer."""
        raise NotImplementedError

    @classmethod
    def check_mixing(cls) -> None:
        """Raise if the first part cannot take a metric that mixes input maps."""

    @staticmethod
    def fit(kernel: Tensor, rank, **options):
        """Factors of one group's kernel (T, S, d_y, d_x), float64."""
        raise NotImplementedError

    @property
    def bias(self) -> Tensor | None:
        return self.last.bias

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, H, W) → (N, T, H', W')."""
        for name in self.CHAIN:
            x = getattr(self, name)(x)
        return x

    def as_sequential(self) -> nn.Sequential | None:
        """The parts, shared with this layer, or None where it does more than run them in turn."""
        if type(self).forward is not FactoredConv2d.forward or "forward" in vars(self):
            return None
        return nn.Sequential(OrderedDict((name, getattr(self, name)) for name in self.CHAIN))

    def output_order(self) -> Tensor:
        """Which of the convolution's T output maps each of ``last``'s is."""
        return torch.arange(self.options["out_channels"], device=self.last.weight.device)

    def _unscale(self, metric: Metric) -> None:
        """Undo the metric's scaling of the kernel in the first and the last part."""
        self.unscale_inputs(metric.inverse)
        output = torch.cat(metric.output)[self.output_order()]
        self.last.weight.div_(output[:, None, None, None])

    def unscale_inputs(self, inverse: list[Tensor]) -> None:
        """Multiply the input mode by Σ^−½ of each group."""
        parts = self.first.weight.chunk(len(inverse))
        for part, matrix in zip(parts, inverse, strict=True):
            part.copy_(torch.einsum("rs...,su->ru...", part.double(), matrix))

    def _settle(self, conv: nn.Conv2d) -> None:
        """Take over bias, training mode and what is trained."""
        for parameter in self.parameters():
            parameter.requires_grad_(conv.weight.requires_grad)
        if conv.bias is not None:
            self.last.bias.copy_(conv.bias[self.output_order()])
            self.last.bias.requires_grad_(conv.bias.requires_grad)
        self.rel_error = relative_error(conv.weight, self.kernel())
        self.train(conv.training)


def axis_options(conv: nn.Conv2d) -> tuple[dict, dict]:
    """Spatial options of a convolution split by axis: for a d_y×1 and for a 1×d_x part."""
    (sy, sx), (dy, dx) = conv.stride, conv.dilation
    if isinstance(conv.padding, str):
        pad_y = pad_x = conv.padding
    else:
        pad_y, pad_x = (conv.padding[0], 0), (0, conv.padding[1])
    mode = {"padding_mode": conv.padding_mode}
    return (
        {"stride": (sy, 1), "padding": pad_y, "dilation": (dy, 1), **mode},
        {"stride": (1, sx), "padding": pad_x, "dilation": (1, dx), **mode},
    )


def spatial_options(conv: nn.Conv2d) -> dict:
    """Spatial options of a convolution, for a part that keeps its d_y×d_x kernel."""
    return {name: getattr(conv, name) for name in SPATIAL}


def place(layer: nn.Module) -> dict:
    """Device and dtype of a layer."""
    return {"device": layer.weight.device, "dtype": layer.weight.dtype}


def check_weights(weights: Tensor) -> Tensor:
    """Return ``weights``, or raise a ValueError if there is nothing that can be approximated."""
    if not torch.isfinite(weights).all():
        raise ValueError(f"weights must be finite, got NaN or Inf among {weights.numel()} of them")
    if not weights.any():
        raise ValueError("weights must have a non-zero entry, got all zeros: nothing to decompose")
    return weights


def relative_error(weights: Tensor, rebuilt: Tensor) -> float:
    """‖W−Ŵ‖/‖W‖."""
    weights = weights.detach().double()
    return float((weights - rebuilt.detach().double()).norm() / weights.norm())


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best A (m, K) and B (K, n) with A B ≈ matrix, each with half of the singular values.

    Halves, because one learning rate must suit both factors when they are fine-tuned.
    """
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank]


def check_count(value, most: int, name: str, rule: str) -> int:
    """``value`` as an int from 1 to ``most``, or an error that names it and the rule."""
    try:
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer from 1 to {most} ({rule}), got {value!r}")
    if not 1 <= count <= most:
        raise ValueError(f"{name} must be an integer from 1 to {most} ({rule}), got {count}")
    return count


def as_pair(value, accepted: str) -> tuple:
    """``value`` as a tuple of two, or a TypeError that says what is accepted."""
    try:
        pair = () if isinstance(value, str) else tuple(value)
    except TypeError:
        pair = ()
    if len(pair) != 2:
        raise TypeError(f"{accepted}, got {value!r}")
    return pair
