"""A fully-connected layer as two, by SVD: Denton et al.'s (2014) approximation of such layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cpnb.cp.norms import Metric
from cpnb.layers.factored import (
    Factored,
    check_count,
    check_weights,
    place,
    relative_error,
    truncated_svd,
)
from cpnb.layers.plain import plain, weight_of


class SVDLinear(Factored):
    """A fully-connected layer as two: ``first`` (S → K, no bias) and ``last`` (K → T).

    W ≈ A B by the truncated SVD, the best fit there is: K (S + T) multiplies in place of S T.
    ``rank`` is K.
    """

    def __init__(self, linear: nn.Linear, rank: int):
        super().__init__(rank)
        self.first = nn.Linear(linear.in_features, rank, bias=False, **place(linear))
        bias = linear.bias is not None
        self.last = nn.Linear(rank, linear.out_features, bias=bias, **place(linear))

    @staticmethod
    def check(linear: nn.Linear, rank) -> int:
        """The rank as an int; raise if it does not fit the layer."""
        most = min(linear.in_features, linear.out_features)
        return check_count(rank, most, "rank", "K singular values")

    @classmethod
    @torch.no_grad()
    def from_linear(cls, linear: nn.Linear, rank: int, weight=None, output_weight=None):
        """Approximate the weights (T, S) of a linear layer; the metric as in ``from_conv``."""
        linear = plain(linear, nn.Linear, "linear")
        rank = cls.check(linear, rank)
        inputs, outputs = linear.in_features, linear.out_features
        metric = Metric.of(linear, inputs, outputs, 1, weight, output_weight)
        layer = cls(linear, rank)
        a, b = truncated_svd(metric.apply(check_weights(linear.weight.double())), rank)
        layer.first.weight.copy_(b @ metric.inverse[0])
        layer.last.weight.copy_(a / metric.output[0][:, None])
        for parameter in layer.parameters():
            parameter.requires_grad_(linear.weight.requires_grad)
        if linear.bias is not None:
            layer.last.bias.copy_(linear.bias)
            layer.last.bias.requires_grad_(linear.bias.requires_grad)
        layer.rel_error = relative_error(linear.weight, layer.kernel())
        return layer.train(linear.training)

    @property
    def in_features(self) -> int:
        """S."""
        return self.first.in_features

    @property
    def out_features(self) -> int:
        """T."""
        return self.last.out_features

    def kernel(self) -> Tensor:
        """The rebuilt weights, (T, S)."""
        return weight_of(self.last) @ weight_of(self.first)

    @property
    def bias(self) -> Tensor | None:
        return self.last.bias

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """The dense ``nn.Linear`` with the rebuilt weights (T, S)."""
        sizes, bias = (self.in_features, self.out_features), self.bias
        linear = nn.Linear(*sizes, bias=bias is not None, **place(self.last))
        linear.weight.copy_(self.kernel())
        if bias is not None:
            linear.bias.copy_(bias)
        return linear.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        """(..., S) → (..., T)."""
        return self.last(self.first(x))
