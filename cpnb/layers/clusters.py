"""Balanced clusters of filters that lie near a common line, for Denton et al. (2014).

Their layers become small convolutions with groups only if all clusters are of one size, so the
assignment is balanced. Filters that differ by a factor, even a negative one, are equally well
served by one direction: clusters gather around lines through the origin, not around points.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_SWEEPS = 50


def balanced_lines(
    items: Tensor, count: int, n_starts: int = 4, random_state: int = 0
) -> tuple[Tensor, Tensor]:
    """Assign items to ``count`` equal clusters, each with a direction that explains it best.

    Maximises Σ_n ‖c_{g(n)}ᵀ X_n‖² over directions c_g of unit length and balanced assignments g, in
    turns: a cluster's direction is the leading left singular vector of its items side by side, and
    the assignment is a linear sum assignment.

    Parameters
    ----------
    items : Tensor, shape (n, c, p), float64
        n matrices X_n whose c rows are to be explained by one direction.
    count : int
        Number of clusters; divides n.
    n_starts : int
        Random starts, of which the best result is kept.
    random_state : int
        Seed of the starts.

    Returns
    -------
    labels : Tensor, shape (n,), int64
    directions : Tensor, shape (count, c)
    """
    generator = torch.Generator().manual_seed(int(random_state))
    runs = [_one_run(items.cpu(), count, generator) for _ in range(n_starts if count > 1 else 1)]
    _, labels, directions = max(runs, key=lambda run: run[0])
    return labels.to(items.device), directions.to(items.device)


def _one_run(items: Tensor, count: int, generator) -> tuple[float, Tensor, Tensor]:
    directions = torch.stack([_leading(items[n][None]) for n in _spread(items, count, generator)])
    labels, best = None, -1.0
    for _ in range(MAX_SWEEPS):
        explained = torch.einsum("gc,ncp->ngp", directions, items).square().sum(2)  # (n, count)
        new = _assign(explained)
        value = float(explained.gather(1, new[:, None]).sum())
        if labels is not None and value <= best * (1 + 1e-12):
            break
        labels, best = new, value
        directions = torch.stack([_leading(items[labels == g]) for g in range(count)])
    return best, labels, directions


def _spread(items: Tensor, count: int, generator) -> list[int]:
    """Items to start from: each drawn by how little the lines before it explain (k-means++)."""
    left = items.square().sum((1, 2))
    chosen = []
    for _ in range(count):
        draw = left.clamp_min(0) + 1e-12 * left.max() + 1e-300
        if chosen:
            draw[chosen] = 0
        chosen.append(int(torch.multinomial(draw, 1, generator=generator)))
        line = _leading(items[chosen[-1]][None])
        rest = items.square().sum((1, 2)) - torch.einsum("c,ncp->np", line, items).square().sum(1)
        left = torch.minimum(left, rest)
    return chosen


def _leading(items: Tensor) -> Tensor:
    """Leading left singular vector of the items (n, c, p) laid side by side."""
    matrix = items.transpose(0, 1).flatten(1)
    return torch.linalg.svd(matrix, full_matrices=False)[0][:, 0]


def _assign(explained: Tensor) -> Tensor:
    """The balanced assignment that explains most: (n, count) → labels (n,)."""
    from scipy.optimize import linear_sum_assignment  # here: it takes a second to load

    n, count = explained.shape
    places = explained.repeat_interleave(n // count, dim=1)  # n places, n / count a cluster
    _, columns = linear_sum_assignment(places.numpy(), maximize=True)
    return torch.from_numpy(columns) // (n // count)


def sorted_by_cluster(labels: Tensor) -> Tensor:
    """Indices of the items, cluster after cluster."""
    return torch.argsort(labels, stable=True)
