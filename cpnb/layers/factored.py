"""What every factored layer has in common: the layer it replaces, and the way back to it.

The methods that the paper (Lebedev et al., ICLR 2015) is compared with replace a convolution by a
few smaller ones. They differ in the shape of these; stride, padding, dilation, groups, bias and the
norm of the approximation are dealt with here, once.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from cpnb.cp.norms import Metric

SPATIAL = ("stride", "padding", "dilation", "padding_mode")
OPTIONS = ("in_channels", "out_channels", "kernel_size", "groups", *SPATIAL)


class Factored(nn.Module):
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


class FactoredConv2d(Factored):
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
        self.options = {name: getattr(conv, name) for name in OPTIONS}

    @classmethod
    @torch.no_grad()
    def from_conv(cls, conv: nn.Conv2d, rank, weight=None, output_weight=None, **options):
        """Approximate a convolution's kernel and return the factored layer.

        Parameters
        ----------
        conv : nn.Conv2d
            Kernel (T, S/groups, d_y, d_x); left untouched. Groups are approximated one by one.
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
        """
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f"conv must be an nn.Conv2d, got {type(conv).__name__}")
        cls.check(conv, rank, **options)
        groups = conv.groups
        metric = Metric.of(conv, conv.in_channels, conv.out_channels, groups, weight, output_weight)
        if not metric.diagonal:
            cls.check_mixing()
        kernels = [check_weights(k.double()) for k in conv.weight.detach().chunk(groups)]
        scaled = [metric.apply(kernel, g) for g, kernel in enumerate(kernels)]
        layer = cls(conv, rank, [cls.fit(kernel, rank, **options) for kernel in scaled])
        layer._unscale(metric)
        layer._settle(conv)
        return layer

    @classmethod
    def check(cls, conv: nn.Conv2d, rank, **options) -> None:
        """Raise, before any work, if the method does not fit the layer or the rank."""
        raise NotImplementedError

    @classmethod
    def check_mixing(cls) -> None:
        """Raise if the first part cannot take a metric that mixes input maps."""

    @staticmethod
    def fit(kernel: Tensor, rank, **options):
        """Factors of one group's kernel (T, S, d_y, d_x), float64."""
        raise NotImplementedError

    def kernel(self) -> Tensor:
        """The rebuilt kernel, (T, S/groups, d_y, d_x)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, H, W) → (N, T, H', W')."""
        for name in self.CHAIN:
            x = getattr(self, name)(x)
        return x

    def as_sequential(self) -> nn.Sequential | None:
        """The parts, shared with this layer, or None where it does more than run them in turn."""
        parts = OrderedDict((name, getattr(self, name)) for name in self.CHAIN)
        return nn.Sequential(parts) if parts else None

    @torch.no_grad()
    def to_conv(self) -> nn.Conv2d:
        """The dense ``nn.Conv2d``: rebuilt kernel (T, S/groups, d_y, d_x), the same options."""
        bias = self.last.bias
        conv = nn.Conv2d(**self.options, bias=bias is not None, **place(self.last))
        conv.weight.copy_(self.kernel())
        if bias is not None:
            conv.bias[self.output_order()] = bias
        return conv.train(self.training)

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
    """Return an integer from 1 to ``most``, or raise an error that names it and the rule."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer from 1 to {most} ({rule}), got {value!r}")
    if not 1 <= value <= most:
        raise ValueError(f"{name} must be an integer from 1 to {most} ({rule}), got {value}")
    return value
