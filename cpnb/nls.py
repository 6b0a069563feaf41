"""CP by non-linear least squares: the paper's Gauss–Newton solver, kept stable.

The paper (Lebedev et al., ICLR 2015) minimises ½‖T − [[U_1, ..., U_N]]‖² over all
factors at once by Gauss–Newton (Tensorlab's ``cpd_nls``). The Jacobian is never formed: with
W_n = U_nᵀU_n, Γ_n the Hadamard product of all W but W_n, and Γ_nm of all but W_n and W_m,

    gradient         ∇_n = U_n Γ_n − G_n                      (G_n the MTTKRP of mode n)
    (JᵀJ X)_n        = X_n Γ_n + U_n Σ_{m≠n} Γ_nm ⊛ (X_mᵀU_m)
    preconditioner   X_n ↦ X_n (Γ_n + λI)⁻¹

so that a step costs two large matrix products and a few small ones per conjugate-gradient
iteration.

Plain NLS lets rank-one terms grow without bound and cancel (degeneracy: Phan et al., ECCV 2020,
who found such layers hard to fine-tune). Here Σ‖term‖² is held under
``max_degeneracy``·‖T‖² by a logarithmic barrier. Σ‖term‖² is the trace of the Hadamard product of
all W_n, so the barrier has the structure of the objective: it multiplies the diagonals of Γ_n and
Γ_nm by 1 + μ and adds one rank-one term to the matrix–vector product. The weight μ adjusts
itself; when the bound does not bind it fades and the result is the plain one.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from cpnb.cp import (
    CPResult,
    Iteration,
    MttkrpTree,
    balance,
    check_rank,
    check_tensor,
    finish,
    hadamard_but,
    normalise,
    sum_sq_terms,
)
from cpnb.starts import ridge_sweep, shrink_terms, start

CG_MAX = 60  # conjugate-gradient iterations a step, at most
CG_TOLERANCE = 0.1  # of the gradient: an inexact step costs less than it loses
WARM_UP = 3  # ridge-ALS sweeps before the first step: far from a solution they gain most per second
RIDGE = 1e-3


def cp_nls(
    tensor,
    rank: int,
    init="svd",
    n_iter_max: int = 200,
    tol: float = 1e-8,
    max_degeneracy: float | None = 10.0,
    random_state: int = 0,
    callback=None,
) -> CPResult:
    """Decompose ``tensor`` by non-linear least squares (Gauss–Newton, Levenberg–Marquardt).

    Parameters
    ----------
    tensor : Tensor or array, shape (I_1, ..., I_N), N >= 2
        Any real dtype, on any device. The work is done in float64 (on the CPU for MPS).
    rank : int
        R, the number of rank-one terms.
    init : {"svd", "random"} or CP decomposition
        See :func:`cpnb.starts.start`.
    n_iter_max : int
        Gauss–Newton steps, rejected ones included.
    tol : float
        Stop when two accepted steps in a row improve the relative error by less than this.
    max_degeneracy : float or None
        Upper bound on Σ_r‖term_r‖²/‖T‖² of the result. None: the paper's plain NLS.
    random_state : int
        Seed of the random columns of the start.
    callback : callable, optional
        Called with each :class:`~cpnb.cp.Iteration`; return True to stop early.

    Returns
    -------
    CPResult
        Balanced factors (I_n, R); ``history`` never rises in ``rel_error``.

    Raises
    ------
    TypeError, ValueError
        Rank not an integer >= 1; tensor complex, empty, all zeros, of order < 2, or with NaN or
        Inf; an unknown ``init``; a ``max_degeneracy`` that is not positive.
    """
    began = time.perf_counter()
    given = check_tensor(tensor)
    rank = check_rank(rank, given.shape)
    if max_degeneracy is not None and not max_degeneracy > 0:
        raise ValueError(f"max_degeneracy must be positive or None, got {max_degeneracy!r}")
    work, norm = normalise(given)
    tree = MttkrpTree(work)
    factors = start(work, rank, init, random_state)
    if isinstance(init, str):
        for _ in range(WARM_UP):
            factors = ridge_sweep(tree, factors, RIDGE)
    if max_degeneracy is not None:
        factors = shrink_terms(tree, factors, 0.9 * max_degeneracy)
    bound = math.inf if max_degeneracy is None else float(max_degeneracy)
    point, history = _descend(tree, factors, bound, n_iter_max, tol, callback, began)
    return finish(point.factors, norm, given, math.sqrt(point.sq_error), point.degeneracy, history)


@dataclass
class _Point:
    """Factors and all that is computed once for them."""

    factors: list[Tensor]
    grams: list[Tensor]
    left: Tensor  # T @ KR_B, reused by the MTTKRPs if the point is accepted
    sq_error: float  # ‖T−T̂‖²
    degeneracy: float  # Σ‖term‖²

    @classmethod
    def at(cls, tree: MttkrpTree, factors: list[Tensor]) -> _Point:
        grams = [u.T @ u for u in factors]
        left = tree.left_product(factors)
        error = max(tree.sq_error(factors, grams, left), 0.0)
        return cls(factors, grams, left, error, float(sum_sq_terms(grams)))

    def merit(self, barrier: float, bound: float) -> float:
        """½‖T−T̂‖² − τ log(1 − Σ‖term‖²/bound); infinite outside the bound."""
        if bound == math.inf:
            return 0.5 * self.sq_error
        room = 1 - self.degeneracy / bound
        return 0.5 * self.sq_error - barrier * math.log(room) if room > 0 else math.inf


def _descend(tree, factors, bound, n_iter_max, tol, callback, began):
    """Levenberg–Marquardt with Nielsen's damping; returns the last point and the history."""
    point = _Point.at(tree, balance(factors))
    history: list[Iteration] = []
    barrier = 1e-3 * point.sq_error
    damping, growth, small_steps = None, 2.0, 0
    model = None
    for _ in range(n_iter_max):
        if model is None:
            model = _Model(tree, point, barrier, bound)
        if damping is None:
            damping = 1e-3 * model.scale
        step, predicted, cg_iterations = model.step(damping)
        trial = _Point.at(tree, [u + s for u, s in zip(point.factors, step, strict=True)])
        merit = point.merit(barrier, bound)
        actual = merit - trial.merit(barrier, bound)
        gain = actual / predicted if predicted > 0 else -1.0
        improvement = math.sqrt(point.sq_error) - math.sqrt(trial.sq_error)
        if gain > 1e-4 and improvement >= 0:
            point = _Point.at(tree, balance(trial.factors))
            barrier = min(barrier, max(0.1 * actual, 1e-9))
            damping *= max(1 / 3, 1 - (2 * gain - 1) ** 3)
            growth, model = 2.0, None
            small_steps = small_steps + 1 if improvement < tol else 0
        elif gain > 1e-4:
            # The step lowers the terms and raises the error: the barrier is too strong here.
            barrier, model = 0.1 * barrier, None
        else:
            damping, growth = damping * growth, growth * 2
        record = Iteration(
            time.perf_counter() - began,
            math.sqrt(point.sq_error),
            damping,
            cg_iterations,
            point.degeneracy,
        )
        history.append(record)
        stop = callback is not None and callback(record)
        hopeless = predicted <= 1e-30 or damping > 1e12 * max(1.0, tree.matrix.shape[0])
        if stop or small_steps >= 2 or hopeless or point.sq_error < 1e-30:
            break
    return point, history


class _Model:
    """Quadratic model of the merit at a point, never formed: gradient, matrix–vector product."""

    def __init__(self, tree: MttkrpTree, point: _Point, barrier: float, bound: float):
        n_modes = len(point.factors)
        room = bound - point.degeneracy
        weight = 0.0 if bound == math.inf else 2 * barrier / room  # μ, of ½μΣ‖term‖²
        self.sizes = [u.shape[0] for u in point.factors]
        self.factors = point.factors
        rank = point.factors[0].shape[1]
        ones = torch.ones_like(point.grams[0])
        lift = ones + weight * torch.eye(rank, dtype=ones.dtype, device=ones.device)
        zero = torch.zeros_like(ones)
        gamma = [hadamard_but(point.grams, n) for n in range(n_modes)]
        self.gamma = torch.stack(gamma) * lift
        self.cross = (
            torch.stack(
                [
                    torch.stack(
                        [
                            zero if n == m else hadamard_but(point.grams, n, m)
                            for m in range(n_modes)
                        ]
                    )
                    for n in range(n_modes)
                ]
            )
            * lift
        )
        mttkrps = tree.mttkrps(point.factors, point.left)
        self.gradient = torch.cat(
            [u @ g - h for u, g, h in zip(point.factors, self.gamma, mttkrps, strict=True)]
        )
        # ∇Σ‖term‖² = 2 U_n diag(Γ_n); its outer product is the barrier's second derivative.
        self.normal = None
        if weight > 0:
            slope = [2 * u * g.diagonal() for u, g in zip(point.factors, gamma, strict=True)]
            self.normal = torch.cat(slope) * (math.sqrt(barrier) / room)
        self.scale = float(self.gamma.diagonal(dim1=1, dim2=2).max())

    def product(self, x: Tensor, damping: float) -> Tensor:
        """(JᵀJ + λI) x, for x stacked (Σ I_n, R)."""
        parts = x.split(self.sizes)
        inner = torch.stack([p.T @ u for p, u in zip(parts, self.factors, strict=True)])
        mixed = (self.cross * inner).sum(dim=1)  # (N, R, R)
        out = torch.cat(
            [
                torch.addmm(p @ g, u, w)
                for p, g, u, w in zip(parts, self.gamma, self.factors, mixed, strict=True)
            ]
        ).add_(x, alpha=damping)
        if self.normal is not None:
            out += self.normal * (self.normal * x).sum()
        return out

    def step(self, damping: float) -> tuple[list[Tensor], float, int]:
        """Solve (JᵀJ + λI) s = −∇ by PCG: s, the predicted decrease, the CG iterations."""
        # λ no smaller than rounding, or the preconditioner is not positive definite.
        floor = self.scale * torch.finfo(self.gamma.dtype).eps * 10
        eye = torch.eye(self.gamma.shape[-1], dtype=self.gamma.dtype, device=self.gamma.device)
        chol = torch.linalg.cholesky_ex(self.gamma + max(damping, floor) * eye)[0]
        inverse = torch.cholesky_inverse(chol)

        def precondition(x):
            return torch.cat([p @ i for p, i in zip(x.split(self.sizes), inverse, strict=True)])

        step, residual, count = conjugate_gradients(
            lambda x: self.product(x, damping), -self.gradient, precondition
        )
        # m(0) − m(s) = −⟨∇,s⟩ − ½⟨s, JᵀJ s⟩, and JᵀJ s = −∇ − residual − λs.
        predicted = 0.5 * float(
            (step * (residual - self.gradient)).sum() + damping * step.square().sum()
        )
        return list(step.split(self.sizes)), predicted, count


def conjugate_gradients(product, rhs: Tensor, precondition) -> tuple[Tensor, Tensor, int]:
    """Preconditioned CG on ``product(x) = rhs`` from zero: x, rhs − product(x), iterations."""
    x, residual = torch.zeros_like(rhs), rhs.clone()
    z = precondition(residual)
    direction, rz = z.clone(), (residual * z).sum()
    target = CG_TOLERANCE * rhs.norm()
    for count in range(1, CG_MAX + 1):
        image = product(direction)
        curvature = (direction * image).sum()
        if not curvature > 0:  # rounding, or a zero right-hand side
            return x, residual, count
        alpha = rz / curvature
        x += alpha * direction
        residual -= alpha * image
        if residual.norm() <= target:
            break
        z = precondition(residual)
        rz, previous = (residual * z).sum(), rz
        direction = z + (rz / previous) * direction
    return x, residual, count
