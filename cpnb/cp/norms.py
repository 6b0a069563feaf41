"""In which norm a kernel is approximated: plain L2, or one that knows the data.

Denton et al. (2014) replace ‖W−Ŵ‖ by two norms: one weighted by the inputs' covariance Σ,
‖(W−Ŵ)Σ^½‖, and a diagonal one weighted by the loss's gradients ("Mahalanobis"). Both come down to
scaling the kernel's input and output modes, approximating in plain L2, and scaling back: any method
whose first part sees the input maps, and whose last part makes the output maps, can use them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Directions that the data do not excite still get this share of the mean eigenvalue: an inverse
# root must exist, and data that were not seen may excite them.
FLOOR = 1e-3


@dataclass(frozen=True)
class Metric:
    """‖diag(a) (W−Ŵ) Σ^½‖ on the output and input maps of one layer, group by group.

    Attributes
    ----------
    root, inverse : list of Tensor
        Σ^½ and Σ^−½, (S/groups, S/groups), one a group.
    output : list of Tensor
        a, (T/groups,), one a group.
    diagonal : bool
        Σ weighs maps but does not mix them.
    """

    root: list[Tensor]
    inverse: list[Tensor]
    output: list[Tensor]
    diagonal: bool

    @classmethod
    def of(cls, layer, inputs: int, outputs: int, groups: int, weight, output_weight) -> Metric:
        """From Σ of all S inputs, or of the S/groups of one group; None stands for plain L2."""
        sigma = covariances(weight, inputs, groups)
        a = _output_weights(output_weight, outputs).chunk(groups)
        pairs = [roots(s) for s in sigma]
        diagonal = all(torch.equal(s, s.diagonal().diag()) for s in sigma)
        device = layer.weight.device
        return cls(
            [root.to(device) for root, _ in pairs],
            [inverse.to(device) for _, inverse in pairs],
            [part.to(device) for part in a],
            diagonal,
        )

    def apply(self, weights: Tensor, group: int = 0) -> Tensor:
        """Weights (T, S, ...) of one group, scaled so that plain L2 is this metric."""
        mixed = torch.einsum("ts...,su->tu...", weights, self.root[group])
        return mixed * self.output[group].view(-1, *[1] * (weights.ndim - 1))


def covariances(weight, inputs: int, groups: int) -> list[Tensor]:
    """Σ of each group's inputs, from that of all S inputs or of S/groups; None: the identity."""
    each = inputs // groups
    if weight is None:
        return [torch.eye(each, dtype=torch.float64)] * groups
    sigma = torch.as_tensor(weight).detach().double().cpu()
    if sigma.shape not in {(inputs, inputs), (each, each)}:
        accepted = f"{(inputs, inputs)}" + (f" or {(each, each)}" if groups > 1 else "")
        raise ValueError(
            f"weight must be a matrix of shape {accepted}, a row an input map, got shape "
            f"{tuple(sigma.shape)}"
        )
    if not torch.isfinite(sigma).all() or not torch.allclose(sigma, sigma.T, rtol=1e-4, atol=1e-9):
        raise ValueError("weight must be a finite symmetric matrix (a covariance), and is not")
    if len(sigma) == each:
        return [sigma] * groups
    return [sigma[g * each :, g * each :][:each, :each] for g in range(groups)]


def _output_weights(weight, outputs: int) -> Tensor:
    if weight is None:
        return torch.ones(outputs, dtype=torch.float64)
    a = torch.as_tensor(weight).detach().double().cpu()
    if a.shape != (outputs,) or not torch.isfinite(a).all() or not (a > 0).all():
        raise ValueError(
            f"output_weight must hold {outputs} positive numbers, one an output map, got shape "
            f"{tuple(a.shape)}, least {a.min() if a.numel() else 'none'}"
        )
    return a


def roots(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Σ^½ and Σ^−½ of a symmetric positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh((sigma + sigma.T) / 2)
    least, most = float(values[0]), float(values[-1])
    if most <= 0 or least < -1e-5 * most:
        raise ValueError(
            f"weight must be positive semi-definite, got eigenvalues from {least:.3g} to {most:.3g}"
        )
    values = values.clamp_min(0)
    root = (values + FLOOR * values.mean()).sqrt()
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T
