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
from itertools import combinations
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
    """Sum of the rank-one terms of ``factors`` (I_n, R): a tensor (I_1, ..., I_N)."""
    half = max(1, len(factors) // 2)
    matrix = khatri_rao(factors[:half]) @ khatri_rao(factors[half:]).T
    return matrix.reshape([u.shape[0] for u in factors])


def khatri_rao(factors: list[Tensor]) -> Tensor:
    """Column-wise Kronecker product, (Π I_n, R); the last factor's index runs fastest."""
    out = factors[0]
    for u in factors[1:]:
        out = (out[:, None, :] * u[None, :, :]).flatten(0, 1)
    return out


def hadamard_but(grams: list[Tensor], *skip: int) -> Tensor:
    """Γ = the element-wise product of the Gramians (R, R) of all modes but ``skip``."""
    out = torch.ones_like(grams[0])
    for n, gram in enumerate(grams):
        if n not in skip:
            out = out * gram
    return out


def sum_sq_terms(grams: list[Tensor]) -> Tensor:
    """Σ_r ‖term_r‖² = the trace of the Hadamard product of all Gramians."""
    return hadamard_but(grams).diagonal().sum()


def balance(factors: list[Tensor]) -> list[Tensor]:
    """Give every mode the same share of each term's norm; T̂ stays the same.

    The N−1 scalings of each term are the null space of the Gauss–Newton matrix, and unbalanced
    layers fine-tune badly: one learning rate must suit all four factors.
    """
    norms = torch.stack([u.norm(dim=0) for u in factors])  # (N, R)
    # Logarithms: the product of N norms may underflow where each of them does not.
    mean = norms.log().mean(dim=0).exp()
    scale = torch.where(norms > 0, mean / norms, torch.zeros_like(norms))
    return [u * s for u, s in zip(factors, scale, strict=True)]


class MttkrpTree:
    """All N MTTKRPs of one tensor from two matrix products.

    The modes are split into two groups A and B whose sizes are as equal as can be; with T as
    a matrix (I_A, I_B), ``T @ KR_B`` holds everything the modes of A need and ``Tᵀ @ KR_A``
    everything those of B need. The balanced split keeps the Khatri–Rao products small: for
    a 3×3×512×512 kernel they have 1,536 rows, not 262,144.
    """

    def __init__(self, tensor: Tensor):
        self.shape = tuple(tensor.shape)
        modes = range(tensor.ndim)
        groups = [c for k in range(1, tensor.ndim) for c in combinations(modes, k)]
        self.a = min(groups, key=lambda a: self._size(a) + tensor.numel() // self._size(a))
        self.b = tuple(n for n in modes if n not in self.a)
        self.matrix = tensor.permute(*self.a, *self.b).reshape(self._size(self.a), -1).contiguous()

    def _size(self, group) -> int:
        return math.prod(self.shape[n] for n in group)

    def left_product(self, factors: list[Tensor]) -> Tensor:
        """T @ KR_B, (I_A, R): enough for ⟨T, T̂⟩ and the MTTKRPs of group A."""
        return self.matrix @ khatri_rao([factors[n] for n in self.b])

    def inner(self, factors: list[Tensor], left: Tensor) -> Tensor:
        """⟨T, T̂⟩."""
        return (left * khatri_rao([factors[n] for n in self.a])).sum()

    def mttkrps(self, factors: list[Tensor], left: Tensor) -> list[Tensor]:
        """G_n = T_(n) · KR of all other factors, (I_n, R), for every mode n."""
        right = self.matrix.T @ khatri_rao([factors[n] for n in self.a])
        out: dict[int, Tensor] = {}
        for group, product in ((self.a, left), (self.b, right)):
            for n in group:
                out[n] = self._contract(group, n, product, factors)
        return [out[n] for n in range(len(self.shape))]

    def mttkrp(self, factors: list[Tensor], n: int) -> Tensor:
        """G_n alone (what ALS needs after each update)."""
        group, other = (self.a, self.b) if n in self.a else (self.b, self.a)
        matrix = self.matrix if n in self.a else self.matrix.T
        return self._contract(group, n, matrix @ khatri_rao([factors[m] for m in other]), factors)

    def _contract(self, group, n, product: Tensor, factors) -> Tensor:
        """Contract ``product`` (Π_{m in group} I_m, R) with the group's factors except U_n."""
        rank = product.shape[-1]
        out = product.reshape([self.shape[m] for m in group] + [rank])
        for axis in reversed(range(len(group))):
            if group[axis] != n:
                shape = [1] * out.ndim
                shape[axis], shape[-1] = -1, rank
                out = (out * factors[group[axis]].reshape(shape)).sum(axis)
        return out

    def residual_sq(self, factors: list[Tensor]) -> Tensor:
        """‖T−T̂‖², by the explicit residual: exact where the cheap formula cancels."""
        a = khatri_rao([factors[n] for n in self.a])
        b = khatri_rao([factors[n] for n in self.b])
        return torch.addmm(self.matrix, a, b.T, alpha=-1).square_().sum()

    def sq_error(self, factors, grams, left) -> float:
        """‖T−T̂‖² for ‖T‖ = 1: the cheap formula, or the residual where that would cancel."""
        cheap = float(1 - 2 * self.inner(factors, left) + hadamard_but(grams).sum())
        # The formula's rounding error is ~1e-15 times its largest part, which degenerate terms
        # blow up; below 1e-6 it would cost more than nine of sixteen digits.
        return cheap if cheap > 1e-6 else float(self.residual_sq(factors))


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
