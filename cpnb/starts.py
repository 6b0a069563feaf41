"""Starting points for the CP solvers: random, leading singular vectors, or a given result."""

from __future__ import annotations

import torch
from torch import Tensor

from cpnb.cp import MttkrpTree, balance, hadamard_but, sum_sq_terms


def start(tensor: Tensor, rank: int, init, random_state) -> list[Tensor]:
    """Factors (I_n, R) to start from, balanced, and scaled to fit ``tensor`` (‖T‖ = 1).

    Parameters
    ----------
    tensor : Tensor
        Scaled to norm one, in the working precision.
    rank : int
    init : {"svd", "random"} or a CP decomposition
        ``"svd"``: the leading left singular vectors of each unfolding, and normal random columns
        where R exceeds the mode (as it mostly does for kernels, so that a start from generalised
        eigenvectors does not exist). ``"random"``: normal random columns. Or ``(weights,
        factors)``, such as a :class:`~cpnb.CPResult` of the same shape and rank.
    random_state : int
    """
    if isinstance(init, str):
        if init not in ("svd", "random"):
            raise ValueError(f'init must be "svd", "random" or a CP result, got {init!r}')
        # Drawn on the CPU, so that a seed means the same start on every device.
        generator = torch.Generator().manual_seed(int(random_state))
        factors = []
        for n, size in enumerate(tensor.shape):
            u = torch.randn(size, rank, generator=generator, dtype=torch.float64)
            u = (u / u.norm(dim=0)).to(tensor)
            if init == "svd":
                unfolding = tensor.movedim(n, 0).flatten(1)
                # Eigenvectors of the small I_n × I_n Gramian, not an SVD of the wide unfolding.
                vectors = torch.linalg.eigh(unfolding @ unfolding.T)[1].flip(1)
                k = min(rank, size)
                # A trace of the random columns stays in: exactly aligned with a symmetric tensor,
                # the start would be a saddle point that no solver leaves.
                u[:, :k] = vectors[:, :k] + 0.05 * u[:, :k]
            factors.append(u)
        return _fit_scale(tensor, factors)
    return _given(tensor, rank, init)


def _given(tensor: Tensor, rank: int, init) -> list[Tensor]:
    try:
        weights, factors = init
        factors = [u.detach().to(tensor) for u in factors]
    except (TypeError, ValueError, AttributeError):
        raise ValueError(
            'init must be "svd", "random" or a CP result (weights, factors), '
            f"got {type(init).__name__}"
        ) from None
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


def ridge_sweep(tree: MttkrpTree, factors: list[Tensor], ridge: float) -> list[Tensor]:
    """One sweep of ALS on ½‖T−T̂‖² + ½·ridge·Σ‖term‖², mode after mode.

    The penalty multiplies the diagonal of Γ_n by 1 + ridge, so the terms stay small and the
    normal equations (Γ_n ⊛ E) U_nᵀ = G_nᵀ well conditioned.
    """
    factors = list(factors)
    grams = [u.T @ u for u in factors]
    for n in range(len(factors)):
        gamma = hadamard_but(grams, n)
        gamma = gamma + torch.diag(ridge * gamma.diagonal())
        factors[n] = solve_spd(gamma, tree.mttkrp(factors, n))
        grams[n] = factors[n].T @ factors[n]
    return balance(factors)


def solve_spd(matrix: Tensor, rhs: Tensor) -> Tensor:
    """X with X · matrix = rhs; a semi-definite ``matrix`` gets the least lift that factors."""
    lift = matrix.diagonal().max() * torch.finfo(matrix.dtype).eps
    eye = torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
    for power in range(0, 12):
        chol, info = torch.linalg.cholesky_ex(matrix + lift * 10.0**power * eye)
        if not int(info):
            return torch.cholesky_solve(rhs.T, chol).T
    return torch.linalg.lstsq(matrix, rhs.T).solution.T


def shrink_terms(tree: MttkrpTree, factors: list[Tensor], bound: float) -> list[Tensor]:
    """Ridge-ALS sweeps with a growing ridge, until Σ‖term‖² < ``bound`` (‖T‖ = 1)."""
    ridge = 1e-4
    while float(sum_sq_terms([u.T @ u for u in factors])) >= bound:
        factors = ridge_sweep(tree, factors, ridge)
        ridge *= 4
    return factors
