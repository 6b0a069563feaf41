"""CP solvers of other packages behind one call, for the side-by-side benchmark; imported, not run.

Each takes a float64 tensor, a rank, factors to start from, a seed and a limit in seconds, and
returns a :class:`Trace`. A package without a callback runs in chunks, each from the last one's
result; only the calls themselves are timed. Peers that are not installed are left out.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import math
import time
import warnings
from dataclasses import dataclass, field

import numpy as np
import torch

import cpnb


@dataclass
class Trace:
    """Relative error against seconds, and what was returned in the end."""

    seconds: list[float] = field(default_factory=list)
    rel_error: list[float] = field(default_factory=list)
    degeneracy: float = math.nan
    iterations: int = 0

    def add(self, seconds: float, rel_error: float) -> None:
        self.seconds.append(float(seconds))
        self.rel_error.append(float(rel_error))

    @property
    def final(self) -> float:
        return min(self.rel_error)

    def time_to(self, error: float) -> float:
        """Seconds until the error was this low; NaN if it never was."""
        for seconds, value in zip(self.seconds, self.rel_error, strict=True):
            if value <= error:
                return seconds
        return math.nan

    def at(self, seconds: float) -> float:
        """The lowest error by this time; NaN before the first."""
        errors = [e for s, e in zip(self.seconds, self.rel_error, strict=True) if s <= seconds]
        return min(errors, default=math.nan)


def measure(tensor, factors, weights=None) -> tuple[float, float]:
    """Relative error and degeneracy of any package's factors."""
    factors = [torch.as_tensor(np.asarray(u)).double() for u in factors]
    if weights is not None:
        factors[0] = factors[0] * torch.as_tensor(np.asarray(weights)).double()
    cp = cpnb.CPResult(torch.ones(factors[0].shape[1], dtype=torch.float64), factors, 0.0, 0.0)
    size = tensor.norm()
    terms = math.prod(u.square().sum(0) for u in factors).sum()
    return float((tensor - cp.to_tensor()).norm() / size), float(terms / size**2)


def of_cpnb(cp, trace=None) -> Trace:
    trace = trace or Trace()
    for row in cp.history:
        trace.add(row.seconds, row.rel_error)
    trace.degeneracy, trace.iterations = cp.degeneracy, len(cp.history)
    return trace


def cpnb_nls(tensor, rank, start, seed, limit, max_degeneracy=None, n_iter_max=100_000, tol=0.0):
    """Our own; from the default start, whose cost counts."""
    cp = cpnb.cp_nls(
        tensor, rank, random_state=seed, n_iter_max=n_iter_max, tol=tol,
        max_degeneracy=max_degeneracy, callback=lambda row: row.seconds > limit,
    )  # fmt: skip
    return of_cpnb(cp)


def cpnb_stable(tensor, rank, start, seed, limit, **options):
    return cpnb_nls(tensor, rank, start, seed, limit, max_degeneracy=10.0, **options)


def cpnb_als(tensor, rank, start, seed, limit):
    cp = cpnb.cp_als(
        tensor, rank, random_state=seed, n_iter_max=100_000, tol=-1.0,
        callback=lambda row: row.seconds > limit,
    )  # fmt: skip
    return of_cpnb(cp)


@contextlib.contextmanager
def quiet():
    """Without the peers' own words on each call."""
    before = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.root.setLevel(before)


class _Enough(Exception):
    pass


def tensorly(tensor, rank, start, seed, limit, init=None, n_iter_max=100_000) -> Trace:
    """``parafac`` on the PyTorch backend, which here takes half the time of the NumPy one."""
    import tensorly as tl
    from tensorly.decomposition import parafac

    trace, last = Trace(), []
    init = init or (None, [u.clone() for u in start])

    def watch(cp, error):
        trace.add(time.perf_counter() - began, error)
        last[:] = [cp]
        if trace.seconds[-1] > limit:
            raise _Enough

    with tl.backend_context("pytorch"), contextlib.suppress(_Enough), warnings.catch_warnings():
        # It says for each small mode that singular vectors do not suffice, which is known.
        warnings.filterwarnings("ignore", message=".*n_eigenvecs.*")
        began = time.perf_counter()
        parafac(
            tensor, rank, n_iter_max=n_iter_max, init=init, tol=1e-16, random_state=seed,
            callback=watch,
        )  # fmt: skip
    weights, factors = last[0]
    trace.degeneracy = measure(tensor, factors, weights)[1]
    trace.iterations = len(trace.seconds) - 1
    return trace


def _in_chunks(run, tensor, start, limit, chunk=5) -> Trace:
    """Call ``run(factors, iterations) -> (weights, factors)`` until its own time is used up."""
    trace, factors, spent = Trace(), start, 0.0
    while spent < limit:
        began = time.perf_counter()
        with quiet():
            weights, factors = run(factors, chunk)
        spent += time.perf_counter() - began
        error, trace.degeneracy = measure(tensor, factors, weights)
        trace.add(spent, error)
        trace.iterations += chunk
        # The norms go into the first factor: both packages keep them apart.
        factors = [np.asarray(u) for u in factors]
        factors[0] = factors[0] * np.asarray(weights)
        chunk = min(2 * chunk, 200)
        if not math.isfinite(error):
            break
    return trace


def _ktensor(factors):
    import pyttb

    arrays = [np.asfortranarray(np.asarray(u, dtype=np.float64)) for u in factors]
    return pyttb.ktensor(arrays, np.ones(arrays[0].shape[1]))


def pyttb(tensor, rank, start, seed, limit) -> Trace:
    """``cp_als``."""
    import pyttb

    array = pyttb.tensor(np.asfortranarray(tensor.numpy()))

    def run(factors, iterations):
        cp, *_ = pyttb.cp_als(
            array, rank, init=_ktensor(factors), maxiters=iterations, stoptol=0.0, printitn=0
        )
        return cp.weights, cp.factor_matrices

    return _in_chunks(run, tensor, start, limit)


def pygenten(tensor, rank, start, seed, limit) -> Trace:
    """``cp_als`` of GenTen (Kokkos, OpenMP)."""
    import pygenten
    import pyttb

    array = pyttb.tensor(np.asfortranarray(tensor.numpy()))

    def run(factors, iterations):
        cp, *_ = pygenten.cp_als(
            array, rank=rank, init=_ktensor(factors), maxiters=iterations, tol=0.0, printitn=0
        )
        return cp.weights, cp.factor_matrices

    return _in_chunks(run, tensor, start, limit)


def tensorfox(tensor, rank, start, seed, limit) -> Trace:
    """``cpd``, damped Gauss–Newton after a compression by MLSVD, from its own random start.

    It sleeps for a second in each call and compiles at its first one; neither is counted. It has no
    callback, so each point of the trace is a run of its own. Modes of size one it does not take.
    """
    import TensorFox.TensorFox as tfx

    tensor = tensor.squeeze()
    array, trace, iterations, spent = tensor.numpy(), Trace(), 10, 0.0
    with quiet():
        tfx.cpd(np.random.default_rng(0).normal(size=[3] * array.ndim), 2)
    while spent < limit:
        np.random.seed(seed)
        options = type("options", (), {"maxiter": iterations, "display": 0, "tol": 1e-15})
        began = time.perf_counter()
        with quiet():
            factors = tfx.cpd(array, rank, options)[0]
        took = max(time.perf_counter() - began - 1.0, 1e-3)
        error, trace.degeneracy = measure(tensor, factors)
        # Each run starts anew: its own seconds count, not those of the shorter ones before it.
        trace.add(took, error)
        trace.iterations = iterations
        spent, iterations = spent + took, 4 * iterations
        if spent + 4 * took > 1.5 * limit:
            break
    return trace


PEERS = {
    "cpnb": {"cpnb, plain": cpnb_nls, "cpnb, stable": cpnb_stable, "cpnb ALS": cpnb_als},
    "tensorly": {"TensorLy": tensorly},
    "pyttb": {"pyttb": pyttb},
    "pygenten": {"pygenten": pygenten},
    "TensorFox": {"TensorFox": tensorfox},
}


def installed() -> dict:
    """Solver by name, of the packages that are there."""
    found = {}
    for package, solvers in PEERS.items():
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        found |= solvers
    return found


def versions() -> dict:
    """Installed versions of the peers."""
    names = [name for name in PEERS if name != "cpnb"]
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
