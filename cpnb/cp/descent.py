"""The descent behind :func:`cpnb.cp_nls`: Levenberg–Marquardt on a batch of CP problems."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from cpnb.cp.algebra import Iteration, balancing_scales, hadamard_but, sum_sq_terms
from cpnb.cp.gauss_newton import ReducedModel, bounded_least_squares
from cpnb.cp.mttkrp import MttkrpTree

FIRST_DAMPING = 1e-3  # λ of the first step, relative to the largest diagonal entry of all Γ_n
# Likewise; below, rounding would leave CG without a positive curvature.
LEAST_DAMPING = {torch.float64: 1e-12, torch.float32: 1e-6}
# Terms that cancel magnify rounding: up to this Σ‖term‖²/‖T‖² the conjugate gradients may run in
# float32. Beyond about 150 the residual that they report was seen to be off by orders.
FLOAT32_UP_TO = 100.0
LEAST_GAIN = 1e-4  # actual over predicted decrease for a step to be accepted


@dataclass
class Point:
    """A batch of factors, and all that is computed once for them."""

    factors: list[Tensor]  # (B, I_n, R), balanced
    grams: list[Tensor]  # (B, R, R)
    left: Tensor  # T @ KR_B, of which the MTTKRPs are made if the point is accepted
    sq_error: Tensor  # ‖T−T̂‖², (B,)
    degeneracy: Tensor  # Σ‖term‖², (B,)
    mu: Tensor  # multiplier of the bound, (B, 1, 1)

    @classmethod
    def at(cls, tree: MttkrpTree, factors: list[Tensor], bound: float, mu: Tensor) -> Point:
        """The best point with these factors within the bound, U_e solved for anew."""
        e, factors = tree.largest, list(factors)
        left = tree.left_product(factors)
        grams = [u.mT @ u for u in factors]
        gamma, mttkrp = hadamard_but(grams, e), tree.contract(e, left, factors)
        factors[e], mu = bounded_least_squares(gamma, mttkrp, bound, mu)
        grams[e] = factors[e].mT @ factors[e]
        cheap = 1 + ((gamma * grams[e]).sum((-2, -1)) - 2 * (mttkrp * factors[e]).sum((-2, -1)))
        error = tree.refine_sq_error(cheap, factors).clamp(min=0)
        scales = balancing_scales(factors)
        factors = [u * s for u, s in zip(factors, scales, strict=True)]
        grams = [g * (s * s.mT) for g, s in zip(grams, scales, strict=True)]
        left = left * math.prod(scales[n] for n in tree.b)
        return cls(factors, grams, left, error, sum_sq_terms(grams), mu)

    def merit(self, bound: float) -> Tensor:
        """The Lagrangian: to first order it does not feel how exactly the bound is met."""
        if bound == math.inf:
            return 0.5 * self.sq_error
        return 0.5 * (self.sq_error + self.mu[:, 0, 0] * (self.degeneracy - bound))

    def model(self, tree: MttkrpTree) -> ReducedModel:
        mttkrps = tree.mttkrps(self.factors, self.left, skip=tree.largest)
        # One dtype for the batch: a problem whose terms cancel takes the others along.
        narrow = bool((self.degeneracy <= FLOAT32_UP_TO).all())
        dtype = torch.float32 if narrow else self.mu.dtype
        return ReducedModel(self.factors, self.grams, mttkrps, self.mu, tree.largest, dtype)

    def moved(self, tree: MttkrpTree, step: list[Tensor], bound: float) -> Point:
        """The point after a step of all factors but the largest mode's."""
        step = iter(step)
        factors = [u if n == tree.largest else u + next(step) for n, u in enumerate(self.factors)]
        return Point.at(tree, factors, bound, self.mu)

    def replaced(self, mask: Tensor, other: Point) -> Point:
        """``other`` where ``mask`` (B,) holds, else this point."""
        if bool(mask.all()):
            return other

        def pick(new, old):
            if isinstance(new, list):
                return [pick(a, b) for a, b in zip(new, old, strict=True)]
            return torch.where(mask.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        names = [f.name for f in fields(self)]
        return Point(*(pick(getattr(other, name), getattr(self, name)) for name in names))


def descend(tree, factors, bound, n_iter_max, tol, callback, began):
    """Minimise from a batch of starts; returns the last point and a history for each problem.

    Nielsen's damping: a step that gains as predicted cuts λ to a third, one that does not
    multiplies it by 2, 4, 8, ...
    """
    zero = torch.zeros_like(factors[0][:, :1, :1])
    point = Point.at(tree, factors, bound, zero)
    model = point.model(tree)
    damping, growth = FIRST_DAMPING * model.scale, zero + 2
    small_steps = torch.zeros_like(zero[:, 0, 0])
    done = small_steps > 0
    histories: list[list[Iteration]] = [[] for _ in done]
    for _ in range(n_iter_max):
        step, predicted, cg_iterations = model.step(damping)
        trial = point.moved(tree, step, bound)
        predicted = predicted[:, 0, 0]
        actual = point.merit(bound) - trial.merit(bound)
        gain = torch.where(predicted > 0, actual / predicted, -torch.ones_like(actual))
        improvement = point.sq_error.sqrt() - trial.sq_error.sqrt()
        accepted = (gain > LEAST_GAIN) & (improvement >= 0) & ~done
        if bool(accepted.any()):
            point = point.replaced(accepted, trial)
            del model, trial, step  # each as large as its successor, which is about to be made
            model = point.model(tree)
        shrink = (1 - (2 * gain - 1) ** 3).clamp(min=1 / 3)[:, None, None]
        took = accepted[:, None, None]
        damping = torch.where(took, damping * shrink, damping * growth)
        damping = damping.maximum(LEAST_DAMPING[model.dtype] * model.scale)
        growth = torch.where(took, zero + 2, growth * 2)
        slow = (improvement < tol).to(small_steps)
        small_steps = torch.where(accepted, (small_steps + 1) * slow, small_steps)
        hopeless = (damping > 1e12 * model.scale)[:, 0, 0] | (point.sq_error < 1e-30)
        _append(histories, done, point, damping, cg_iterations, time.perf_counter() - began)
        done = done | (small_steps >= 2) | hopeless
        if callback is not None:
            best = int(point.sq_error.argmin())
            if callback(histories[best][-1]):
                break
        if bool(done.all()):
            break
    return point, histories


def _append(histories, done, point: Point, damping, cg_iterations, seconds) -> None:
    columns = torch.stack([point.sq_error.sqrt(), damping[:, 0, 0], point.degeneracy], dim=1)
    for history, over, (error, lam, degeneracy) in zip(
        histories, done.tolist(), columns.tolist(), strict=True
    ):
        if not over:
            history.append(Iteration(seconds, error, lam, cg_iterations, degeneracy))
