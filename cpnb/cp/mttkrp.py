"""MTTKRPs (matricised tensor times Khatri–Rao product), the one costly operation of every solver.

Everything takes leading batch dimensions: a tree holds one tensor or a batch of equal shape, the
factors may carry a batch of their own (several starts for one tensor), and the two broadcast.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor

from cpnb.cp.algebra import hadamard_but, khatri_rao


class MttkrpTree:
    """All N MTTKRPs of a tensor from two matrix products.

    The modes are split into two groups A and B whose sizes are as equal as can be; with T as
    a matrix (I_A, I_B), ``T @ KR_B`` holds everything the modes of A need and ``Tᵀ @ KR_A``
    everything those of B need. The balanced split keeps the Khatri–Rao products small: for
    a 3×3×512×512 kernel they have 1,536 rows, not 262,144. The largest mode is in A.

    Parameters
    ----------
    tensor : Tensor, shape (..., I_1, ..., I_N)
    order : int, optional
        N; by default all dimensions are modes.
    """

    def __init__(self, tensor: Tensor, order: int | None = None):
        order = tensor.ndim if order is None else order
        lead = tensor.ndim - order
        self.shape = tuple(tensor.shape[lead:])
        self.largest = max(range(order), key=lambda n: self.shape[n])
        groups = [c for k in range(1, order) for c in combinations(range(order), k)]
        groups = [a for a in groups if self.largest in a]
        total = math.prod(self.shape)
        self.a = min(groups, key=lambda a: self._size(a) + total // self._size(a))
        self.b = tuple(n for n in range(order) if n not in self.a)
        modes = [lead + n for n in (*self.a, *self.b)]
        matrix = tensor.permute(*range(lead), *modes)
        matrix = matrix.reshape(*tensor.shape[:lead], self._size(self.a), -1)
        self.matrix = matrix.contiguous()

    def _size(self, group) -> int:
        return math.prod(self.shape[n] for n in group)

    def left_product(self, factors: list[Tensor]) -> Tensor:
        """T @ KR_B, (..., I_A, R): enough for ⟨T, T̂⟩ and the MTTKRPs of group A."""
        return self.matrix @ khatri_rao([factors[n] for n in self.b])

    def right_product(self, factors: list[Tensor]) -> Tensor:
        """Tᵀ @ KR_A, (..., I_B, R)."""
        return self.matrix.mT @ khatri_rao([factors[n] for n in self.a])

    def inner(self, factors: list[Tensor], left: Tensor) -> Tensor:
        """⟨T, T̂⟩."""
        return (left * khatri_rao([factors[n] for n in self.a])).sum((-2, -1))

    def mttkrps(
        self, factors: list[Tensor], left: Tensor, skip: int | None = None
    ) -> dict[int, Tensor]:
        """G_n = T_(n) · KR of all other factors, (..., I_n, R), for every mode n but ``skip``."""
        products = dict.fromkeys(self.a, left) | dict.fromkeys(self.b, self.right_product(factors))
        return {n: self.contract(n, p, factors) for n, p in products.items() if n != skip}

    def contract(self, n: int, product: Tensor, factors: list[Tensor]) -> Tensor:
        """G_n from the product of its group: contract it with the group's other factors."""
        group = self.a if n in self.a else self.b
        rank = product.shape[-1]
        lead = product.shape[:-2]
        out = product.reshape(*lead, *(self.shape[m] for m in group), rank)
        for axis in reversed(range(len(group))):
            if group[axis] != n:
                u = factors[group[axis]]
                before = [1] * axis
                after = [1] * (out.ndim - len(lead) - axis - 2)
                u = u.reshape(*u.shape[:-2], *before, u.shape[-2], *after, rank)
                out = (out * u).sum(len(lead) + axis)
        return out

    def residual_sq(self, factors: list[Tensor]) -> Tensor:
        """‖T−T̂‖², by the explicit residual: exact where the cheap formula cancels."""
        a = khatri_rao([factors[n] for n in self.a])
        b = khatri_rao([factors[n] for n in self.b])
        return (a @ b.mT).sub_(self.matrix).square_().sum((-2, -1))

    def sq_error(self, factors, grams, left) -> Tensor:
        """‖T−T̂‖² for ‖T‖ = 1: the cheap formula, or the residual where that would cancel."""
        cheap = 1 - 2 * self.inner(factors, left) + hadamard_but(grams).sum((-2, -1))
        return self.refine_sq_error(cheap, factors)

    def refine_sq_error(self, cheap: Tensor, factors: list[Tensor]) -> Tensor:
        """Replace errors² that the cheap formula cannot resolve by those of the residual."""
        # The formula's rounding error is ~1e-15 times its largest part, which degenerate terms
        # blow up; below 1e-6 it would cost more than nine of sixteen digits.
        if bool((cheap > 1e-6).all()):
            return cheap
        return torch.where(cheap > 1e-6, cheap, self.residual_sq(factors))
