"""CP algebra against its definition."""

import math

import pytest
import tensorly as tl
import torch

from cpnb.cp.algebra import (
    CPResult,
    balance,
    check_rank,
    cp_to_tensor,
    hadamard_but,
    khatri_rao,
    sum_sq_terms,
)
from cpnb.cp.mttkrp import MttkrpTree


def draw(shape, rank, seed=0):
    g = torch.Generator().manual_seed(seed)
    tensor = torch.randn(*shape, generator=g, dtype=torch.float64)
    factors = [torch.randn(i, rank, generator=g, dtype=torch.float64) for i in shape]
    return tensor, factors


def naive_cp(factors):
    """The definition: a sum of outer products, one term after the other."""
    out = 0
    for r in range(factors[0].shape[1]):
        term = factors[0][:, r]
        for u in factors[1:]:
            term = torch.tensordot(term, u[:, r], dims=0)
        out = out + term
    return out


SHAPES = [(5, 4), (4, 3, 6), (3, 3, 5, 7), (2, 3, 2, 4, 3), (1, 6, 1, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_tensor_is_the_sum_of_outer_products(shape):
    _, factors = draw(shape, 4)
    torch.testing.assert_close(cp_to_tensor(factors), naive_cp(factors))


@pytest.mark.parametrize("shape", SHAPES)
def test_mttkrps_are_the_gradients_of_the_inner_product(shape):
    tensor, factors = draw(shape, 3)
    leaves = [u.clone().requires_grad_() for u in factors]
    inner = (tensor * naive_cp(leaves)).sum()
    expected = torch.autograd.grad(inner, leaves)
    tree = MttkrpTree(tensor)
    left = tree.left_product(factors)
    torch.testing.assert_close(tree.inner(factors, left), inner.detach())
    got = tree.mttkrps(factors, left)
    assert sorted(got) == list(range(len(shape)))
    for n, want in enumerate(expected):
        torch.testing.assert_close(got[n], want)
    assert sorted(tree.mttkrps(factors, left, skip=1)) == [n for n in sorted(got) if n != 1]


@pytest.mark.parametrize("shape", SHAPES)
def test_residual_and_term_norms(shape):
    tensor, factors = draw(shape, 3)
    tree, rebuilt = MttkrpTree(tensor), naive_cp(factors)
    torch.testing.assert_close(tree.residual_sq(factors), (tensor - rebuilt).square().sum())
    grams = [u.T @ u for u in factors]
    torch.testing.assert_close(hadamard_but(grams).sum(), rebuilt.square().sum())
    terms = sum(naive_cp([u[:, [r]] for u in factors]).square().sum() for r in range(3))
    torch.testing.assert_close(sum_sq_terms(grams), terms)


def test_error_near_zero_keeps_its_digits():
    _, factors = draw((4, 5, 6), 3)
    tensor = naive_cp(factors)
    scale = tensor.norm()
    tree = MttkrpTree(tensor / scale)
    off = [u / scale ** (1 / 3) for u in factors]
    off[0] = off[0] * (1 + 1e-10)
    grams = [u.T @ u for u in off]
    error = math.sqrt(tree.sq_error(off, grams, tree.left_product(off)))
    assert error == pytest.approx(1e-10, rel=1e-3)


def test_khatri_rao_column_is_a_kronecker_product():
    _, (a, b) = draw((3, 4), 2)
    torch.testing.assert_close(khatri_rao([a, b])[:, 1], torch.kron(a[:, 1], b[:, 1]))


def test_split_is_balanced():
    assert MttkrpTree(torch.zeros(512, 512, 3, 3)).matrix.shape == (1536, 1536)


def test_balance_keeps_the_tensor_and_equals_the_norms():
    _, factors = draw((3, 4, 5), 3)
    factors[0] = factors[0] * 1e9
    factors[1][:, 2] = 0  # a dead term stays dead and finite
    balanced = balance(factors)
    torch.testing.assert_close(cp_to_tensor(balanced), naive_cp(factors))
    norms = torch.stack([u.norm(dim=0) for u in balanced])
    torch.testing.assert_close(norms, norms[:1].expand_as(norms))


def test_result_is_a_cp_tensor_to_tensorly():
    tensor, factors = draw((3, 4, 5), 2)
    cp = CPResult(torch.tensor([2.0, -1.0], dtype=torch.float64), factors, 0.5, 1.0)
    with tl.backend_context("pytorch"):
        rebuilt = tl.cp_to_tensor(cp)
        norm = tl.cp_tensor.cp_norm(cp)
    torch.testing.assert_close(cp.to_tensor(), rebuilt)
    torch.testing.assert_close(norm, rebuilt.norm())
    assert len(cp) == 2 and cp[1] is factors and cp.rank == 2 and cp.shape == (3, 4, 5)
    assert "rank=2" in repr(cp)


@pytest.mark.parametrize("rank", [0, -3, True])
def test_rank_below_one_is_refused(rank):
    with pytest.raises(ValueError, match="rank must be an integer >= 1"):
        check_rank(rank, (3, 3))


@pytest.mark.parametrize("rank", [2.0, "4", None])
def test_rank_that_is_no_integer_is_refused(rank):
    with pytest.raises(TypeError, match="rank must be an integer >= 1"):
        check_rank(rank, (3, 3))


def test_rank_beyond_sense_warns():
    with pytest.warns(UserWarning, match="6 terms already give it exactly"):
        assert check_rank(7, (2, 3, 4)) == 7
