"""CP by non-linear least squares: plain Gauss–Newton as in the paper, and a bounded form, ours.

The paper (Lebedev et al., ICLR 2015) minimises ½‖T − [[U_1, ..., U_N]]‖² over all
factors at once by Gauss–Newton (Tensorlab's ``cpd_nls``). Here the largest mode is projected out,
so that the unknowns are the other factors (:mod:`cpnb.cp.gauss_newton`), and the Jacobian is never
formed: a step costs two large matrix products and a few small ones per conjugate-gradient
iteration.

Plain NLS lets rank-one terms grow without bound and cancel (degeneracy: Phan et al., ECCV 2020,
who found such layers hard to fine-tune). Here Σ‖term‖² ≤ ``max_degeneracy``·‖T‖² is a
constraint of the least-squares problem for the largest mode, met exactly at each point the solver
visits: the error falls from step to step within the bound, and nothing has to be tuned.
"""

from __future__ import annotations

import math
import time
from numbers import Integral

import torch
from torch import Tensor

from cpnb.cp.algebra import CPResult, check_rank, check_tensor, finish, normalise
from cpnb.cp.descent import descend
from cpnb.cp.metric import from_metric, metric_roots, to_metric
from cpnb.cp.mttkrp import MttkrpTree
from cpnb.cp.starts import lossless_bases, start, warm_up

WARM_UP = 3  # sweeps of ridge-ALS before the first step


def cp_nls(
    tensor,
    rank: int,
    init="svd",
    n_iter_max: int = 200,
    tol: float = 1e-8,
    max_degeneracy: float | None = 10.0,
    random_state: int = 0,
    callback=None,
    n_starts: int = 1,
    weight=None,
) -> CPResult:
    """Decompose ``tensor`` by non-linear least squares (Gauss–Newton, Levenberg–Marquardt).

    Parameters
    ----------
    tensor : Tensor or array, shape (I_1, ..., I_N), N >= 2
        Any real dtype, on any device. The work is done in float64 (on the CPU for MPS) but for the
        conjugate gradients, which run in float32 as long as the terms cancel little.
    rank : int
        R, the number of rank-one terms.
    init : {"svd", "random", "slices", "grow"} or CP decomposition
        See :func:`cpnb.cp.starts.start`. All but a given decomposition are warmed up by three
        sweeps of ridge-ALS.
    n_iter_max : int
        Gauss–Newton steps, rejected ones included.
    tol : float
        Stop when two accepted steps in a row improve the relative error by less than this.
    max_degeneracy : float or None
        Upper bound on Σ_r‖term_r‖²/‖T‖² of the result. None: the paper's plain NLS.
    random_state : int
        Seed of the random columns of the start.
    callback : callable, optional
        Called with each :class:`~cpnb.cp.algebra.Iteration`, the best start's; return True to
        stop early.
    n_starts : int
        Starts from ``random_state``, ``random_state`` + 1, ..., solved as one batch; the one with
        the lowest error is returned.
    weight : Tensor, shape (S, S), or list of N such or None, optional
        Metrics, symmetric and positive semi-definite: minimise ‖(T−T̂) ×_n M_n^½‖. A single matrix
        is that of mode 1, the input channels of a kernel (T, S, d, d), such as
        :func:`cpnb.input_covariance` gives it. Errors and degeneracy of the result are then in
        this norm, the bound too.

    Returns
    -------
    CPResult
        Balanced factors (I_n, R); ``history`` never rises in ``rel_error``.

    Raises
    ------
    TypeError, ValueError
        Rank not an integer >= 1; tensor complex, empty, all zeros, of order < 2, or with NaN or
        Inf; an unknown ``init``; a ``max_degeneracy`` that is not positive; ``n_starts`` < 1; a
        ``weight`` of the wrong shape, not finite, or not positive semi-definite.
    """
    if not isinstance(n_starts, Integral) or isinstance(n_starts, bool) or n_starts < 1:
        raise ValueError(f"n_starts must be an integer >= 1, got {n_starts!r}")
    if n_starts > 1 and not isinstance(init, str):
        raise ValueError(f"n_starts must be 1 with a given init, got {n_starts}")
    seeds = [random_state + i for i in range(n_starts)]
    given = check_tensor(tensor)
    rank = check_rank(rank, given.shape)
    options = (rank, init, n_iter_max, tol, max_degeneracy, seeds, callback, [weight])
    return min(_solve([given], *options), key=lambda cp: cp.rel_error)


def cp_nls_batch(
    tensors,
    rank: int,
    init="svd",
    n_iter_max: int = 200,
    tol: float = 1e-8,
    max_degeneracy: float | None = 10.0,
    random_state: int = 0,
    weight=None,
) -> list[CPResult]:
    """Decompose several tensors of one shape at once, such as the groups of a convolution.

    Parameters
    ----------
    tensors : Tensor, shape (B, I_1, ..., I_N), or sequence of B tensors
    weight : list of B entries, optional
        Each what :func:`cp_nls` takes.
    rank, init, n_iter_max, tol, max_degeneracy, random_state
        As for :func:`cp_nls`, the same for all.

    Returns
    -------
    list of CPResult
        What :func:`cp_nls` returns for each of them, to rounding.

    Raises
    ------
    TypeError, ValueError
        As :func:`cp_nls`; tensors of different shapes, or none.
    """
    given = [check_tensor(tensor) for tensor in tensors]
    shapes = sorted({tuple(t.shape) for t in given})
    if len(shapes) != 1:
        raise ValueError(f"tensors must be one or more of the same shape, got {shapes}")
    rank = check_rank(rank, shapes[0])
    weights = [None] * len(given) if weight is None else list(weight)
    if len(weights) != len(given):
        raise ValueError(f"weight must have one entry a tensor, {len(given)}, got {len(weights)}")
    return _solve(given, rank, init, n_iter_max, tol, max_degeneracy, [random_state], None, weights)


def _solve(given, rank, init, n_iter_max, tol, max_degeneracy, seeds, callback, weights):
    """Results for each tensor from each seed, solved as one batch."""
    began = time.perf_counter()
    if max_degeneracy is not None and not max_degeneracy > 0:
        raise ValueError(f"max_degeneracy must be positive or None, got {max_degeneracy!r}")
    roots = [metric_roots(w, t) for w, t in zip(weights, given, strict=True)]
    works, norms = zip(
        *(normalise(to_metric(t, r)) for t, r in zip(given, roots, strict=True)), strict=True
    )
    # A basis of its own for each tensor would give cores of different shapes.
    bases = lossless_bases(works[0]) if len(works) == 1 else [None] * works[0].ndim
    starts = [start(work, rank, init, seed) for work in works for seed in seeds]
    factors = [
        torch.stack(columns if q is None else [q.T @ u for u in columns])
        for columns, q in zip(zip(*starts, strict=True), bases, strict=True)
    ]
    works = [_project(work, bases) for work in works]
    tree = MttkrpTree(works[0] if len(works) == 1 else torch.stack(works), works[0].ndim)
    del works, starts  # the tree has the tensor in its own order
    if isinstance(init, str):
        factors = warm_up(tree, factors, WARM_UP)
    bound = math.inf if max_degeneracy is None else float(max_degeneracy)
    point, histories = descend(tree, factors, bound, n_iter_max, tol, callback, began)
    results = []
    for b, history in enumerate(histories):
        t = b // len(seeds)
        own = [u[b] if q is None else q @ u[b] for u, q in zip(point.factors, bases, strict=True)]
        own = from_metric(own, roots[t])
        error, degeneracy = math.sqrt(float(point.sq_error[b])), float(point.degeneracy[b])
        results.append(finish(own, norms[t], given[t], error, degeneracy, history))
    return results


def _project(tensor: Tensor, bases) -> Tensor:
    """T ×_n Q_nᵀ."""
    for n, q in enumerate(bases):
        if q is not None:
            tensor = torch.tensordot(q, tensor, dims=([0], [n])).movedim(0, n)
    return tensor
