"""The two baselines of NLS: alternating least squares, and greedy rank-one deflation.

ALS solves for one factor at a time. Greedy deflation, the scheme of Denton et al. (2014) that the
paper compares with, fits one rank-one term to what the terms before it have left over, and never
revises a term.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from cpnb.cp.algebra import (
    CPResult,
    Iteration,
    check_rank,
    check_tensor,
    finish,
    normalise,
    sum_sq_terms,
)
from cpnb.cp.mttkrp import MttkrpTree
from cpnb.cp.starts import ridge_sweep, start


def cp_als(
    tensor,
    rank: int,
    init="svd",
    n_iter_max: int = 200,
    tol: float = 1e-8,
    random_state: int = 0,
    callback=None,
) -> CPResult:
    """Decompose ``tensor`` by alternating least squares: U_n ← G_n Γ_n⁻¹, mode after mode.

    Parameters
    ----------
    tensor : Tensor or array, shape (I_1, ..., I_N), N >= 2
        Any real dtype, on any device. The work is done in float64 (on the CPU for MPS).
    rank : int
        R, the number of rank-one terms.
    init : {"svd", "random"} or CP decomposition
        See :func:`cpnb.cp.starts.start`.
    n_iter_max : int
        Sweeps over all modes.
    tol : float
        Stop when a sweep improves the relative error by less than this.
    random_state : int
        Seed of the random columns of the start.
    callback : callable, optional
        Called with each :class:`~cpnb.cp.algebra.Iteration`; return True to stop early.

    Returns
    -------
    CPResult
        Balanced factors (I_n, R).

    Raises
    ------
    TypeError, ValueError
        As :func:`cpnb.cp_nls`.
    """
    began = time.perf_counter()
    given = check_tensor(tensor)
    rank = check_rank(rank, given.shape)
    work, norm = normalise(given)
    tree = MttkrpTree(work)
    factors = start(work, rank, init, random_state)
    error, degeneracy, left = _measure(tree, factors)
    history: list[Iteration] = []
    for _ in range(n_iter_max):
        trial = ridge_sweep(tree, factors, ridge=0.0, left=left)
        trial_error, trial_degeneracy, left = _measure(tree, trial)
        improvement = error - trial_error
        if improvement > 0:  # exact sweeps never rise; rounding in a swamp may
            factors, error, degeneracy = trial, trial_error, trial_degeneracy
        record = Iteration(time.perf_counter() - began, error, 0.0, 0, degeneracy)
        history.append(record)
        stop = callback is not None and callback(record)
        if stop or improvement < tol:
            break
    return finish(factors, norm, given, error, degeneracy, history)


def cp_greedy(
    tensor,
    rank: int,
    n_iter_max: int = 50,
    tol: float = 1e-6,
    random_state: int = 0,
    callback=None,
) -> CPResult:
    """Decompose ``tensor`` greedily: R times, the best rank-one term of the residual found by ALS.

    Parameters
    ----------
    tensor : Tensor or array, shape (I_1, ..., I_N), N >= 2
        Any real dtype, on any device. The work is done in float64 (on the CPU for MPS).
    rank : int
        R, the number of rank-one terms.
    n_iter_max : int
        Sweeps a term.
    tol : float
        A term is done when a sweep improves ‖T−T̂‖/‖T‖ by less than this.
    random_state : int
        Seed of the terms' second, random start: the better of it and the singular vectors wins.
    callback : callable, optional
        Called with one :class:`~cpnb.cp.algebra.Iteration` a term; return True to stop early.

    Returns
    -------
    CPResult
        R terms; fewer if the callback stopped it or nothing was left. One history record a term.

    Raises
    ------
    TypeError, ValueError
        As :func:`cpnb.cp_nls`.
    """
    began = time.perf_counter()
    given = check_tensor(tensor)
    rank = check_rank(rank, given.shape)
    work, norm = normalise(given)
    residual = work.clone()
    terms: list[list[Tensor]] = []
    history: list[Iteration] = []
    sum_sq = 0.0
    for r in range(rank):
        size = residual.norm()
        if float(size) < 1e-14:
            break
        starts = (start(residual / size, 1, init, random_state + r) for init in ("svd", "random"))
        fits = [_rank_one(residual, size, s, n_iter_max, tol) for s in starts]
        best = min(fits, key=lambda fit: fit[0])[1]
        terms.append(best)
        residual -= _outer(best)
        sum_sq += float(sum_sq_terms([u.T @ u for u in best]))
        record = Iteration(time.perf_counter() - began, float(residual.norm()), 0.0, 0, sum_sq)
        history.append(record)
        if callback is not None and callback(record):
            break
    factors = [torch.cat(columns, dim=1) for columns in zip(*terms, strict=True)]
    return finish(factors, norm, given, residual.norm(), sum_sq, history)


def _rank_one(residual, size, factors, n_iter_max, tol):
    """Best rank-one fit from a start fitted to residual/size: (relative error left, factors)."""
    tree = MttkrpTree(residual / size)
    error, _, left = _measure(tree, factors)
    for _ in range(n_iter_max):
        factors = ridge_sweep(tree, factors, ridge=0.0, left=left)
        previous, (error, _, left) = error, _measure(tree, factors)
        if (previous - error) * float(size) < tol:
            break
    return error, [factors[0] * size, *factors[1:]]


def _outer(factors: list[Tensor]) -> Tensor:
    out = factors[0][:, 0]
    for u in factors[1:]:
        out = out.unsqueeze(-1) * u[:, 0]
    return out


def _measure(tree: MttkrpTree, factors: list[Tensor]) -> tuple[float, float, Tensor]:
    """Relative error and degeneracy for a tensor of norm one, and the left product they took."""
    grams = [u.T @ u for u in factors]
    left = tree.left_product(factors)
    error = float(tree.sq_error(factors, grams, left))
    return math.sqrt(max(error, 0.0)), float(sum_sq_terms(grams)), left
