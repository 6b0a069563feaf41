"""The rank that a noisy matrix shows: empirical variational Bayes, in closed form.

Nakajima et al., "Global analytic solution of fully-observed variational Bayesian matrix
factorization" (JMLR 2013) and "Condition for perfect dimensionality recovery by variational
Bayesian PCA" (JMLR 2015): singular values below a threshold cannot be told from noise, and the
noise's variance is found by a search in one variable. Kim et al. (ICLR 2016) use it for Tucker.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def vbmf_rank(matrix: Tensor) -> int:
    """Number of singular values of ``matrix`` (L, M) above the noise; may be 0.

    The matrix is taken as low rank plus independent normal noise of unknown variance σ².
    """
    matrix = matrix.detach().double().cpu()
    rows, columns = sorted(matrix.shape)
    squares = torch.linalg.svdvals(matrix).square().numpy() / columns  # γ²/M
    alpha = rows / columns
    threshold = _threshold(alpha)
    noise = _noise_variance(squares, alpha, threshold)
    return int((squares > threshold * noise).sum())


def _threshold(alpha: float) -> float:
    """x̲: the least γ²/(M σ²) that counts as signal, for α = L/M ≤ 1."""
    tau = 2.5129 * math.sqrt(alpha)  # the authors' approximation
    return (1 + tau) * (1 + alpha / tau)


def _noise_variance(squares: np.ndarray, alpha: float, threshold: float) -> float:
    """The σ² of least free energy, Σ_h ψ(γ_h²/(M σ²)) with the terms that σ² alone moves."""
    from scipy.optimize import minimize_scalar  # here: it takes a second to load

    rows = len(squares)
    most = max(0, min(math.ceil(rows / (1 + alpha)) - 1, rows - 1))  # signals that can be found
    upper = squares.mean()
    lower = max(squares[most] / threshold, squares[most:].mean())
    if upper <= 0:
        return 0.0
    lower = min(max(lower, 1e-12 * upper), upper)

    def energy(log_noise: float) -> float:
        x = np.maximum(squares / math.exp(log_noise), 1e-300)
        signal = x[x > threshold]
        tau = _tau(signal, alpha)
        gain = np.log(tau + 1) + alpha * np.log(tau / alpha + 1) - tau
        return float((x - np.log(x)).sum() + gain.sum())

    bounds = math.log(lower), math.log(upper)
    if bounds[1] - bounds[0] < 1e-9:
        return upper
    return math.exp(minimize_scalar(energy, bounds=bounds, method="bounded").x)


def _tau(x: np.ndarray, alpha: float) -> np.ndarray:
    spare = x - (1 + alpha)
    return (spare + np.sqrt(np.maximum(spare**2 - 4 * alpha, 0))) / 2
