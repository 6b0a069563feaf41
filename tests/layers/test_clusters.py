"""Balanced clusters of lines, and the rank that variational Bayes sees."""

import pytest
import torch

from cpnb.layers.clusters import balanced_lines, sorted_by_cluster
from cpnb.layers.vbmf import _tau, _threshold, vbmf_rank


def explained(items, labels, directions):
    return torch.einsum("nc,ncp->np", directions[labels], items).square().sum()


def test_clusters_are_balanced_and_cannot_be_bettered_by_a_swap_or_a_turn():
    items = torch.randn(24, 3, 5, dtype=torch.float64)
    labels, directions = balanced_lines(items, 4)
    assert labels.bincount().tolist() == [6] * 4
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(4, dtype=torch.float64))
    best = explained(items, labels, directions)
    for a in range(24):
        for b in range(a):
            swapped = labels.clone()
            swapped[[a, b]] = labels[[b, a]]
            assert explained(items, swapped, directions) <= best + 1e-9
    for _ in range(50):
        turned = torch.nn.functional.normalize(directions + 0.1 * torch.randn(4, 3).double())
        assert explained(items, labels, turned) <= best + 1e-9


def test_opposite_filters_share_a_cluster():
    lines = torch.eye(2, dtype=torch.float64)[[0, 1, 0, 1, 1, 0]]
    signs = torch.tensor([1.0, 1, -2, -1, 3, 1])[:, None]
    labels, _ = balanced_lines((lines * signs)[:, :, None], 2)
    assert torch.equal(labels == labels[0], torch.tensor([1, 0, 1, 0, 0, 1]).bool())
    assert labels[sorted_by_cluster(labels)].tolist() == [0, 0, 0, 1, 1, 1]


def test_the_same_seed_gives_the_same_clusters():
    items = torch.randn(12, 4, 1, dtype=torch.float64)
    a, b = (balanced_lines(items, 3, random_state=1)[0] for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("alpha", [0.05, 0.3, 1.0])
def test_the_threshold_is_where_a_signal_gains_nothing(alpha):
    tau = _tau(torch.tensor([_threshold(alpha)]).double().numpy(), alpha)[0]
    gain = torch.log(torch.tensor(tau + 1)) + alpha * torch.log(torch.tensor(tau / alpha + 1)) - tau
    assert abs(float(gain)) < 0.02


@pytest.mark.parametrize("shape", [(30, 80), (80, 30), (50, 50)])
@pytest.mark.parametrize("rank", [0, 1, 6])
def test_planted_rank(shape, rank):
    low = torch.randn(shape[0], rank) @ torch.randn(rank, shape[1])
    assert vbmf_rank(low + 0.5 * torch.randn(shape)) == rank
