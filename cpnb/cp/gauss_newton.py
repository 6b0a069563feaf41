"""The linear algebra of one Gauss–Newton step on the CP problem, for a batch of problems at once.

The largest mode e is *projected out* (variable projection; Golub & Pereyra 1973): for given other
factors the best U_e is a linear least-squares problem, solved exactly, with the bound on
Σ‖term‖² as its constraint. What is left to Gauss–Newton is the function of the other factors alone,
and its matrix is the Schur complement of the full one, in which mode e appears only through R×R
matrices: no step of the inner solver knows how large the largest mode is.

Notation: W_n = U_nᵀU_n, Γ_n and Γ_nm the element-wise products of all W but those of the modes
named, μ the multiplier of the bound (0 where it does not bind), E = 11ᵀ + μI, which
multiplies every Γ because Σ‖term‖² is the trace of the product of all W.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cpnb.cp.algebra import cholesky, hadamard_but, unit_diagonal

CG_MAX = 60  # conjugate-gradient iterations a step, at most
CG_TOLERANCE = 0.2  # of the gradient: an inexact step costs less than it loses
DENSE_UP_TO = 150  # unknowns up to which a Cholesky factorisation takes less time than CG
BOUND_TOLERANCE = 1e-6  # relative; a sloppier root would show as noise in the error


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner products over the last two axes, kept as axes of size one."""
    return (x * y).sum((-2, -1), keepdim=True)


def bounded_least_squares(gamma, mttkrp, bound: float, mu: Tensor) -> tuple[Tensor, Tensor]:
    """The factor U (I, R) that minimises ‖T−T̂‖² subject to Σ‖term‖² ≤ ``bound``.

    With the other modes' columns scaled to norm one, Σ‖term‖² = ‖U‖², and the minimiser is
    U = G(Γ + μI)⁻¹ with μ ≥ 0 the root of ‖U(μ)‖² = bound, or 0 where the bound does not bind: the
    error-preserving correction of Phan et al. (ECCV 2020) turned around. The root is found by the
    iteration of Moré & Sorensen (1983) for trust regions, which needs one Cholesky factorisation
    a step.

    Parameters
    ----------
    gamma : Tensor, shape (..., R, R)
    mttkrp : Tensor, shape (..., I, R)
    bound : float, may be infinite
    mu : Tensor, shape (..., 1, 1)
        Where to start looking.

    Returns
    -------
    (U, mu)
    """
    gamma, mttkrp, scale = unit_diagonal(gamma, mttkrp)
    target = bound * (1 - 0.5 * BOUND_TOLERANCE)
    mu = mu if bound < torch.inf else torch.zeros_like(mu)
    for _ in range(30):
        chol = cholesky(gamma, mu)
        u = torch.cholesky_solve(mttkrp.mT, chol).mT
        if bound == torch.inf:
            break
        size = dot(u, u)
        inside = (size <= bound) & ((size >= bound * (1 - BOUND_TOLERANCE)) | (mu == 0))
        if bool(inside.all()):
            break
        slope = torch.linalg.solve_triangular(chol, u.mT, upper=False).square()
        newton = mu + size / slope.sum((-2, -1), keepdim=True) * ((size / target).sqrt() - 1)
        mu = torch.where(inside, mu, newton.clamp(min=0))
    else:  # no root to that precision: a bound is a bound all the same
        u = u * (bound / dot(u, u)).sqrt().clamp(max=1)
    return u / scale, mu


class ReducedModel:
    """Quadratic model of the error as a function of all factors but the largest mode's, U_e.

    Never formed: gradient and matrix–vector product, for X stacked over the modes but e,
    (..., Σ I_n, R). Where the bound binds, the model keeps Σ‖term‖² constant to first order.

    Parameters
    ----------
    factors, grams : lists of Tensor (..., I_n, R) and (..., R, R)
        U_e as :func:`bounded_least_squares` left it, so that its own gradient is zero.
    mttkrps : dict of int to Tensor (..., I_n, R)
        Of all modes but e.
    mu : Tensor, shape (..., 1, 1)
    e : int
    dtype : torch.dtype
        Of :meth:`product`, and so of CG; gradient, factorisations and the step are as given.
        A small problem, solved without CG, ignores it.
    """

    def __init__(self, factors, grams, mttkrps, mu: Tensor, e: int, dtype=torch.float64):
        self.kept = [n for n in range(len(factors)) if n != e]
        rows, rank = sum(factors[n].shape[-2] for n in self.kept), factors[0].shape[-1]
        self.small = rows * rank <= DENSE_UP_TO
        self.dtype = mu.dtype if self.small else dtype
        self.factors = [factors[n].to(self.dtype) for n in self.kept]
        self.sizes = [u.shape[-2] for u in self.factors]
        lift = 1 + mu * torch.eye(rank, dtype=mu.dtype, device=mu.device)
        gamma_e, self.gram_e = hadamard_but(grams, e), grams[e].to(self.dtype)
        self.gamma_e = gamma_e * lift
        plain = [hadamard_but(grams, n) for n in self.kept]
        self.gamma = [g * lift for g in plain]
        self.gamma_in_product = [g.to(self.dtype) for g in self.gamma]
        self.cross_e = [(hadamard_but(grams, n, e) * lift).to(self.dtype) for n in self.kept]
        self.cross = {
            (n, m): (hadamard_but(grams, a, b) * lift).to(self.dtype)
            for n, a in enumerate(self.kept)
            for m, b in enumerate(self.kept)
            if n < m
        }
        self.gradient = torch.cat(
            [factors[n] @ g - mttkrps[n] for g, n in zip(self.gamma, self.kept, strict=True)],
            dim=-2,
        )
        largest = [g.diagonal(dim1=-2, dim2=-1).amax(-1) for g in self.gamma]
        self.scale = torch.stack(largest).amax(0)[..., None, None]
        self.binds = bool((mu > 0).any())
        if self.binds:  # ∇½Σ‖term‖² = U_n diag(Γ_n)
            self.on = (mu > 0).to(self.dtype)
            weights = [g.diagonal(dim1=-2, dim2=-1)[..., None, :].to(self.dtype) for g in plain]
            self.normal = self.on * torch.cat(
                [u * w for u, w in zip(self.factors, weights, strict=True)], dim=-2
            )
            self.weight_e = gamma_e.diagonal(dim1=-2, dim2=-1)[..., None, :].to(self.dtype)

    def prepare(self, damping: Tensor) -> None:
        """Set λ, (..., 1, 1), for :meth:`product` and :meth:`precondition`."""
        self.damping = damping.to(self.dtype)
        # One after the other: together their temporaries would be the largest thing in memory.
        self.inverse_e, *self.inverse = [
            torch.cholesky_inverse(cholesky(g, damping)).to(self.dtype)
            for g in (self.gamma_e, *self.gamma)
        ]
        if self.binds:
            self.normal_e = self.gram_e * self.weight_e
            self.tilt = self.weight_e.mT * self.inverse_e
            self.stiffness = dot(self.normal_e, self.tilt)

    def product(self, x: Tensor) -> Tensor:
        """(S + λI) x with S the Schur complement of mode e in JᵀJ + μ·(terms' own JᵀJ)."""
        parts = x.split(self.sizes, dim=-2)
        inner = [p.mT @ u for p, u in zip(parts, self.factors, strict=True)]
        mixed_e = self.cross_e[0] * inner[0]
        for c, i in zip(self.cross_e[1:], inner[1:], strict=True):
            mixed_e = mixed_e.addcmul_(c, i)
        mixed_e = mixed_e @ self.inverse_e
        if self.binds:
            shortfall = dot(self.normal, x) - self.on * dot(self.normal_e, mixed_e)
            multiplier = shortfall / self.stiffness
            mixed_e = torch.addcmul(mixed_e, multiplier, self.tilt)
        back = mixed_e.mT @ self.gram_e
        out = []
        for n, (p, u) in enumerate(zip(parts, self.factors, strict=True)):
            mixed = -self.cross_e[n] * back
            for m, i in enumerate(inner):
                if m != n:
                    mixed = mixed.addcmul_(self.cross[min(n, m), max(n, m)], i)
            out.append((p @ self.gamma_in_product[n]).add_(u @ mixed))
        out = torch.cat(out, dim=-2).addcmul_(self.damping, x)
        return out.addcmul_(multiplier, self.normal) if self.binds else out

    def precondition(self, x: Tensor) -> Tensor:
        """Block Jacobi: X_n (Γ_n + λI)⁻¹."""
        parts = x.split(self.sizes, dim=-2)
        return torch.cat([p @ i for p, i in zip(parts, self.inverse, strict=True)], dim=-2)

    def step(self, damping: Tensor) -> tuple[list[Tensor], Tensor, int]:
        """Solve (S + λI) s = −∇: s by mode, the predicted decrease (..., 1, 1), CG iterations."""
        self.prepare(damping)
        step, residual, count = self._dense_step() if self.small else self._inexact_step()
        # m(0) − m(s) = −⟨∇,s⟩ − ½⟨s, S s⟩, and S s = −∇ − residual − λs.
        predicted = 0.5 * (dot(step, residual - self.gradient) + damping * dot(step, step))
        # R×R each, of this λ only, and the trial point is about to need as much.
        self.inverse_e = self.inverse = self.normal_e = self.tilt = None
        return list(step.split(self.sizes, dim=-2)), predicted, count

    def _inexact_step(self) -> tuple[Tensor, Tensor, int]:
        # Scaled to one: squares of a small gradient would leave float32's range.
        size = dot(self.gradient, self.gradient).sqrt()
        size = size.clamp(min=torch.finfo(size.dtype).tiny)
        rhs = (-self.gradient / size).to(self.dtype)
        step, residual, count = conjugate_gradients(self.product, rhs, self.precondition)
        return step.to(size.dtype) * size, residual.to(size.dtype) * size, count

    def _dense_step(self) -> tuple[Tensor, Tensor, int]:
        rows, rank = self.gradient.shape[-2:]
        lead = self.gradient.shape[:-2]
        like = self.gradient
        units = torch.eye(rows * rank, dtype=like.dtype, device=like.device)
        units = units.reshape(-1, *[1] * len(lead), rows, rank).expand(-1, *lead, -1, -1)
        matrix = self.product(units).flatten(-2).movedim(0, -1)
        matrix = 0.5 * (matrix + matrix.mT)
        chol = cholesky(matrix)
        step = torch.cholesky_solve(-self.gradient.flatten(-2)[..., None], chol)
        step = step.reshape(self.gradient.shape)
        return step, -self.gradient - self.product(step), 0


def conjugate_gradients(product, rhs: Tensor, precondition) -> tuple[Tensor, Tensor, int]:
    """Preconditioned CG from zero on a batch of ``product(x) = rhs``.

    Vectors are updated in place, so ``precondition`` has to return a new one.

    Returns
    -------
    (x, rhs − product(x), iterations)
    """
    x, residual = torch.zeros_like(rhs), rhs.clone()
    z = precondition(residual)
    direction, rz = z, dot(residual, z)
    target = CG_TOLERANCE**2 * dot(rhs, rhs)
    # Asking a GPU for a number stops its queue: there, look only now and then.
    look_every = 8 if rhs.is_cuda else 1
    for count in range(1, CG_MAX + 1):
        image = product(direction)
        curvature = dot(direction, image)
        # Nothing moves in a problem that is solved (or where rounding has eaten the curvature).
        go = (dot(residual, residual) > target) & (curvature > 0)
        alpha = torch.where(go, rz / curvature, torch.zeros_like(rz))
        x.addcmul_(alpha, direction)
        residual.addcmul_(alpha, image, value=-1)
        if count % look_every == 0 and not bool((go & (dot(residual, residual) > target)).any()):
            break
        z = precondition(residual)
        rz, previous = dot(residual, z), rz
        beta = torch.where(go, rz / previous, torch.zeros_like(rz))
        direction = z.addcmul_(beta, direction)
    return x, residual, count
