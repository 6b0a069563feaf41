"""CP algebra shared by every solver, and :class:`CPResult`, what each of them returns.

A rank-R CP decomposition writes an order-N tensor T of shape (I_1, ..., I_N) as a sum of R
rank-one terms, T ≈ Σ_r w_r u_r⁽¹⁾ ∘ ... ∘ u_r⁽ᴺ⁾, its factors being U_n of shape (I_n, R)
(Lebedev et al., ICLR 2015, eq. 1, for the 4-D kernel of a convolution).
"""

from __future__ import annotations

import math
import operator
import warnings
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Iteration(NamedTuple):
    """What a solver knew after one iteration; ``pandas.DataFrame(cp.history)`` makes a table."""

    seconds: float  # since the solver was called
    rel_error: float  # ‖T−T̂‖/‖T‖
    damping: float  # Levenberg–Marquardt λ, relative to ‖T‖ = 1; 0 where there is none
    cg_iterations: int
    degeneracy: float  # Σ‖term‖²/‖T‖²


@dataclass
class CPResult:
    """A CP decomposition; unpacks as ``(weights, factors)``, so TensorLy functions accept it.

    Attributes
    ----------
    weights : Tensor, shape (R,)
        All ones: the terms are balanced, each factor carries its share of a term's norm.
    factors : list of Tensor
        One matrix (I_n, R) a mode, in the tensor's dtype and on its device.
    rel_error : float
        ‖T−T̂‖/‖T‖.
    degeneracy : float
        Σ_r ‖term_r‖²/‖T‖²: far above 1 when large terms cancel (Phan et al., ECCV 2020).
    history : list of Iteration
    """

    weights: Tensor
    factors: list[Tensor]
    rel_error: float
    degeneracy: float
    history: list[Iteration] = field(default_factory=list, repr=False)

    @property
    def rank(self) -> int:
        return self.factors[0].shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(u.shape[0] for u in self.factors)

    def __iter__(self):
        yield self.weights
        yield self.factors

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return (self.weights, self.factors)[index]

    def __repr__(self):
        return (
            f"CPResult(shape={self.shape}, rank={self.rank}, rel_error={self.rel_error:.4g}, "
            f"degeneracy={self.degeneracy:.4g}, iterations={len(self.history)})"
        )

    def to_tensor(self) -> Tensor:
        """Rebuild T̂, of shape (I_1, ..., I_N)."""
        first, *rest = self.factors
        return cp_to_tensor([first * self.weights, *rest])


def cp_to_tensor(factors: list[Tensor]) -> Tensor:
    """Sum of the rank-one terms of ``factors`` (..., I_n, R): a tensor (..., I_1, ..., I_N)."""
    half = max(1, len(factors) // 2)
    matrix = khatri_rao(factors[:half]) @ khatri_rao(factors[half:]).mT
    return matrix.reshape(*matrix.shape[:-2], *(u.shape[-2] for u in factors))


def khatri_rao(factors: list[Tensor]) -> Tensor:
    """Column-wise Kronecker product, (..., Π I_n, R); the last factor's index runs fastest."""
    out = factors[0]
    for u in factors[1:]:
        out = (out[..., :, None, :] * u[..., None, :, :]).flatten(-3, -2)
    return out


def hadamard_but(grams: list[Tensor], *skip: int) -> Tensor:
    """Γ = the element-wise product of the Gramians (..., R, R) of all modes but ``skip``."""
    kept = [gram for n, gram in enumerate(grams) if n not in skip]
    return math.prod(kept[1:], start=kept[0]) if kept else torch.ones_like(grams[0])


def sum_sq_terms(grams: list[Tensor]) -> Tensor:
    """Σ_r ‖term_r‖² = the trace of the Hadamard product of all Gramians."""
    return hadamard_but(grams).diagonal(dim1=-2, dim2=-1).sum(-1)


def balance(factors: list[Tensor]) -> list[Tensor]:
    """Give every mode the same share of each term's norm; T̂ stays the same.

    The N−1 scalings of each term are the null space of the Gauss–Newton matrix, and unbalanced
    layers fine-tune badly: one learning rate must suit all four factors.
    """
    return [u * s for u, s in zip(factors, balancing_scales(factors), strict=True)]


def balancing_scales(factors: list[Tensor]) -> Tensor:
    """The factors' column scales, (N, ..., 1, R), that :func:`balance` multiplies by."""
    norms = torch.stack([u.norm(dim=-2, keepdim=True) for u in factors])
    # Logarithms: the product of N norms may underflow where each of them does not.
    mean = norms.log().mean(dim=0).exp()
    return torch.where(norms > 0, mean / norms, torch.zeros_like(norms))


def cholesky(matrix: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    """Lower Cholesky factors of ``matrix`` (..., R, R) + the least multiple of I that makes them
    exist, tried from ``shift`` (..., 1, 1) on."""
    least = matrix.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
    least = (10 * torch.finfo(matrix.dtype).eps * least).clamp(min=torch.finfo(matrix.dtype).tiny)
    shift = least + shift
    for _ in range(17):  # up to about the matrix itself
        shifted = matrix.clone()
        shifted.diagonal(dim1=-2, dim2=-1).add_(shift[..., 0])
        factor, info = torch.linalg.cholesky_ex(shifted)
        if not bool(info.any()):
            break
        shift = torch.where(info[..., None, None] > 0, 10 * shift, shift)
    return factor


def unit_diagonal(gamma: Tensor, mttkrp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Γ (..., R, R) and G (..., I, R) with the terms' other factors scaled to norm one.

    Then Γ has a unit diagonal, Σ‖term‖² = ‖U‖², and a least lift means the same to every term. The
    third result is the scale (..., 1, R): a solution of the scaled problem is to be divided by it.
    """
    scale = gamma.diagonal(dim1=-2, dim2=-1)[..., None, :].sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return gamma / (scale * scale.mT), mttkrp / scale, scale


def check_rank(rank, shape) -> int:
    """Return ``rank`` as an int, or raise; warn beyond the largest rank ``shape`` can need."""
    try:
        value = operator.index(rank)
    except TypeError:
        raise TypeError(f"rank must be an integer >= 1, got {rank!r}") from None
    if isinstance(rank, bool) or value < 1:
        raise ValueError(f"rank must be an integer >= 1, got {rank!r}")
    enough = math.prod(shape) // max(max(shape), 1)
    if value > enough:
        warnings.warn(
            f"rank={value} is more than a tensor of shape {tuple(shape)} can need: {enough} terms "
            "already give it exactly",
            stacklevel=3,
        )
    return value


def check_tensor(tensor) -> Tensor:
    """Return ``tensor`` as a torch tensor if it can be decomposed, or raise."""
    tensor = torch.as_tensor(tensor).detach()
    if tensor.is_complex():
        raise TypeError(f"tensor must be real, got dtype {tensor.dtype}")
    if tensor.ndim < 2:
        raise ValueError(f"tensor must have order >= 2, got shape {tuple(tensor.shape)}")
    if tensor.numel() == 0:
        raise ValueError(f"tensor must not be empty, got shape {tuple(tensor.shape)}")
    if not torch.isfinite(tensor).all():
        bad = int((~torch.isfinite(tensor)).sum())
        raise ValueError(f"tensor must be finite, got {bad} NaN or Inf of {tensor.numel()} entries")
    if not tensor.any():
        raise ValueError("tensor must have a non-zero entry, got all zeros: nothing to decompose")
    return tensor


def normalise(tensor: Tensor) -> tuple[Tensor, float]:
    """Scale to ‖T‖ = 1 in float64; return the scaled tensor and the norm.

    Gramians square the condition number; in float32 they stop being positive definite. MPS has no
    float64, so its tensors are solved on the CPU.
    """
    work = (tensor.cpu() if tensor.device.type == "mps" else tensor).double()
    peak = work.abs().max()  # first, so that the squares neither overflow nor underflow
    work = work / peak
    norm = work.norm()
    return work / norm, float(peak) * float(norm)


def finish(factors, norm, like: Tensor, rel_error, degeneracy, history) -> CPResult:
    """Balanced factors of a scaled tensor → a :class:`CPResult` for the tensor as it was given."""
    dtype = like.dtype if like.dtype.is_floating_point else torch.get_default_dtype()
    share = norm ** (1 / len(factors))
    factors = [(u * share).to(like.device, dtype) for u in balance(factors)]
    weights = torch.ones(factors[0].shape[1], dtype=dtype, device=like.device)
    return CPResult(weights, factors, float(rel_error), float(degeneracy), history)
