"""Starting points for the CP solvers, and the sweeps of ridge-ALS that warm them up."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cpnb.cp.algebra import balance, cholesky, cp_to_tensor, hadamard_but, unit_diagonal
from cpnb.cp.mttkrp import MttkrpTree

INITS = ("svd", "random", "slices", "grow")
RIDGE = 1e-3  # of the warm-up: keeps the terms of a bad start from growing against each other


def start(tensor: Tensor, rank: int, init, random_state) -> list[Tensor]:
    """Factors (I_n, R) to start from, balanced, and scaled to fit ``tensor`` (‖T‖ = 1).

    Parameters
    ----------
    tensor : Tensor
        Scaled to norm one, in the working precision.
    rank : int
    init : {"svd", "random", "slices", "grow"} or a CP decomposition
        ``"svd"``: the leading left singular vectors of each unfolding, and normal random columns
        where R exceeds the mode (as it mostly does for kernels, so that a start from generalised
        eigenvectors does not exist). ``"random"``: normal random columns. ``"slices"``: the R
        largest singular triplets among all slices along the two largest modes (for a kernel:
        its d² matrices S×T), each at its slice's place. ``"grow"``: R/4, R/2, then R terms,
        new ones from the residual, each time with a few sweeps of ALS. Or ``(weights,
        factors)``, such as a :class:`~cpnb.CPResult` of the same shape and rank.
    random_state : int
    """
    if not isinstance(init, str):
        return _given(tensor, rank, init)
    if init not in INITS:
        raise ValueError(f"init must be {_accepted()}, got {init!r}")
    # Drawn on the CPU, so that a seed means the same start on every device.
    generator = torch.Generator().manual_seed(int(random_state))
    make = {"svd": _svd, "random": _random, "slices": _slices, "grow": _grow}[init]
    return _fit_scale(tensor, make(tensor, rank, generator))


def _accepted() -> str:
    return ", ".join(f'"{name}"' for name in INITS) + " or a CP result (weights, factors)"


def _random(tensor: Tensor, rank: int, generator) -> list[Tensor]:
    columns = [
        torch.randn(size, rank, generator=generator, dtype=torch.float64) for size in tensor.shape
    ]
    return [(u / u.norm(dim=0)).to(tensor) for u in columns]


def _svd(tensor: Tensor, rank: int, generator) -> list[Tensor]:
    factors = _random(tensor, rank, generator)
    for n, u in enumerate(factors):
        unfolding = tensor.movedim(n, 0).flatten(1)
        # Eigenvectors of the small I_n × I_n Gramian, not an SVD of the wide unfolding.
        vectors = torch.linalg.eigh(unfolding @ unfolding.T)[1].flip(1)
        k = min(u.shape)
        # A trace of the random columns stays in: exactly aligned with a symmetric tensor,
        # the start would be a saddle point that no solver leaves.
        u[:, :k] = vectors[:, :k] + 0.05 * u[:, :k]
    return factors


def _slices(tensor: Tensor, rank: int, generator) -> list[Tensor]:
    factors = _random(tensor, rank, generator)
    q, p = sorted(range(tensor.ndim), key=lambda n: tensor.shape[n])[-2:]
    others = [n for n in range(tensor.ndim) if n not in (p, q)]
    slices = tensor.permute(*others, p, q).reshape(-1, tensor.shape[p], tensor.shape[q])
    left, values, right = torch.linalg.svd(slices, full_matrices=False)
    size, order = values.flatten().sort(descending=True)
    order, size = order[:rank], size[:rank]
    place, column = order // values.shape[1], order % values.shape[1]
    k = len(order)
    factors[p][:, :k] = left[place, :, column].T * size + 0.05 * factors[p][:, :k]
    factors[q][:, :k] = right[place, column, :].T + 0.05 * factors[q][:, :k]
    for n in reversed(others):
        here = torch.nn.functional.one_hot(place % tensor.shape[n], tensor.shape[n])
        # Neighbouring positions get a share each, or no other slice would ever be reached.
        factors[n][:, :k] = here.T.to(tensor) + 0.3 * factors[n][:, :k]
        place = place // tensor.shape[n]
    return factors


def _grow(tensor: Tensor, rank: int, generator) -> list[Tensor]:
    tree, factors, residual = MttkrpTree(tensor), None, tensor
    for stage in sorted({max(1, rank // 4), max(1, rank // 2), rank}):
        have = 0 if factors is None else factors[0].shape[1]
        extra = _fit_scale(residual, _svd(residual, stage - have, generator))
        both = (
            extra
            if factors is None
            else [torch.cat(pair, dim=1) for pair in zip(factors, extra, strict=True)]
        )
        factors = warm_up(tree, both, sweeps=5)
        residual = tensor - cp_to_tensor(factors)
        if not bool(residual.any()):
            return [torch.nn.functional.pad(u, (0, rank - u.shape[1])) for u in factors]
    return factors


def _given(tensor: Tensor, rank: int, init) -> list[Tensor]:
    try:
        weights, factors = init
        factors = [u.detach().to(tensor) for u in factors]
    except (TypeError, ValueError, AttributeError):
        raise ValueError(f"init must be {_accepted()}, got {type(init).__name__}") from None
    if weights is not None:
        factors[0] = factors[0] * weights.detach().to(tensor)
    got, want = [tuple(u.shape) for u in factors], [(i, rank) for i in tensor.shape]
    if got != want:
        raise ValueError(f"init must have factors of shapes {want}, got {got}")
    return _fit_scale(tensor, balance(factors))


def _fit_scale(tensor: Tensor, factors: list[Tensor]) -> list[Tensor]:
    """Scale T̂ so that ⟨T, T̂⟩ = ⟨T̂, T̂⟩, the best multiple of it."""
    tree = MttkrpTree(tensor)
    inner = tree.inner(factors, tree.left_product(factors))
    square = hadamard_but([u.T @ u for u in factors]).sum()
    # A start at a right angle to T would be scaled to nothing, and zero factors have no gradient.
    scale = torch.clamp(inner.abs() / square, min=1e-3)
    signs = [torch.sign(inner) if n == 0 and inner != 0 else 1.0 for n in range(len(factors))]
    share = scale ** (1 / len(factors))
    return [u * share * s for u, s in zip(factors, signs, strict=True)]


def warm_up(tree: MttkrpTree, factors: list[Tensor], sweeps: int) -> list[Tensor]:
    """A few sweeps of ridge-ALS: far from a solution they gain the most per second."""
    for _ in range(sweeps):
        factors = ridge_sweep(tree, factors, RIDGE)
    return factors


def ridge_sweep(
    tree: MttkrpTree, factors: list[Tensor], ridge: float, left: Tensor | None = None
) -> list[Tensor]:
    """One sweep of ALS on ½‖T−T̂‖² + ½·ridge·Σ‖term‖², mode after mode.

    The penalty multiplies the diagonal of Γ_n by 1 + ridge, so the terms stay small and the
    normal equations (Γ_n ⊛ E) U_nᵀ = G_nᵀ well conditioned. A sweep takes two products with the
    tensor: while the modes of one group are updated, the product over the other group stands.

    Parameters
    ----------
    left : Tensor, optional
        ``tree.left_product(factors)``, if known.
    """
    factors = list(factors)
    grams = [u.mT @ u for u in factors]
    for group in (tree.a, tree.b):
        if group is tree.a:
            product = tree.left_product(factors) if left is None else left
        else:
            product = tree.right_product(factors)
        for n in group:
            mttkrp = tree.contract(n, product, factors)
            gamma, mttkrp, scale = unit_diagonal(hadamard_but(grams, n), mttkrp)
            factors[n] = torch.cholesky_solve(mttkrp.mT, cholesky(gamma, ridge)).mT / scale
            grams[n] = factors[n].mT @ factors[n]
    return balance(factors)


def lossless_bases(tensor: Tensor) -> list[Tensor | None]:
    """For each mode an orthonormal basis (I_n, r) of its unfolding's range, None where r = I_n.

    T is unchanged by projection on them, and projecting the factors of any T̂ makes neither the
    error nor the terms larger: decomposing the smaller core T ×_n Q_nᵀ is the same problem.
    """
    bases: list[Tensor | None] = []
    for n, size in enumerate(tensor.shape):
        unfolding = tensor.movedim(n, 0).flatten(1)
        # The eigenvalues of the Gramian are quick and tell only whether to look closer.
        values = torch.linalg.eigvalsh(unfolding @ unfolding.T)
        if size == 1 or float(values[0]) > 1e-12 * float(values[-1]):
            bases.append(None)
            continue
        left, values, _ = torch.linalg.svd(unfolding, full_matrices=False)
        keep = int((values > 1e-15 * math.sqrt(tensor.numel()) * values[0]).sum())
        bases.append(left[:, :keep] if keep < size else None)
    return bases
