"""Data-aware norms: a metric for each mode turns into a change of basis around the solver.

‖(T−T̂) ×_n M_n^½‖ with M_n symmetric and positive semi-definite is the plain norm of T ×_n M_n^½
less its decomposition, whose factors are M_n^½ U_n: solve there, and return U_n. With the
covariance Σ of a layer's inputs as the metric of the input channels, the squared error is the
expected squared change of the layer's outputs where neighbouring pixels are uncorrelated (Denton et
al., 2014, for whole patches).
"""

from __future__ import annotations

import torch
from torch import Tensor

from cpnb.cp.norms import roots

Root = tuple[Tensor, Tensor]  # M^½ and its inverse


def metric_roots(weight, tensor: Tensor) -> list[Root | None]:
    """Roots of the metrics, one entry a mode; None for the plain norm.

    Parameters
    ----------
    weight : None, Tensor (I_2, I_2), or list of N entries, each None or Tensor (I_n, I_n)
        A single matrix is the metric of mode 1, the input channels of a kernel (T, S, d, d).
    tensor : Tensor, shape (I_1, ..., I_N)
    """
    order = tensor.ndim
    if weight is None:
        return [None] * order
    if isinstance(weight, (list, tuple)):
        if len(weight) != order:
            raise ValueError(f"weight must have {order} entries, one a mode, got {len(weight)}")
        weights = list(weight)
    else:
        weights = [weight if n == 1 else None for n in range(order)]
    return [None if w is None else _root(w, n, tensor) for n, w in enumerate(weights)]


def _root(weight, n: int, tensor: Tensor) -> Root:
    size = tensor.shape[n]
    where = "cpu" if tensor.device.type == "mps" else tensor.device
    matrix = torch.as_tensor(weight).detach().to(where, torch.float64)
    if matrix.shape != (size, size):
        raise ValueError(
            f"weight of mode {n} must have shape ({size}, {size}), got {tuple(matrix.shape)}"
        )
    if not torch.isfinite(matrix).all() or not torch.allclose(matrix, matrix.T, rtol=1e-4):
        raise ValueError(f"weight of mode {n} must be finite and symmetric, and is not")
    return roots(matrix / matrix.diagonal().abs().max().clamp(min=1e-300))


def to_metric(tensor: Tensor, roots: list[Root | None]) -> Tensor:
    """T ×_n M_n^½ for every mode that has a metric."""
    for n, root in enumerate(roots):
        if root is not None:
            work = tensor.to(root[0].device, torch.float64)
            tensor = torch.tensordot(root[0], work, dims=([1], [n])).movedim(0, n)
    return tensor


def from_metric(factors: list[Tensor], roots: list[Root | None]) -> list[Tensor]:
    """U_n ← M_n^−½ U_n."""
    return [u if r is None else r[1] @ u for u, r in zip(factors, roots, strict=True)]
