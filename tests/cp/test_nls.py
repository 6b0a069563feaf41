"""The NLS solver: its results against mathematics."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cpnb
from cpnb.cp.algebra import cp_to_tensor


def low_rank(shape, rank, seed=0, noise=0.0):
    g = torch.Generator().manual_seed(seed)
    factors = [torch.randn(i, rank, generator=g, dtype=torch.float64) for i in shape]
    tensor = cp_to_tensor(factors)
    return tensor + noise * torch.randn(*shape, generator=g, dtype=torch.float64)


@pytest.mark.parametrize(
    "shape,rank", [((6, 7), 3), ((5, 6, 7), 4), ((3, 3, 8, 9), 5), ((3, 2, 4, 3, 3), 3)]
)
def test_exact_recovery(shape, rank):
    tensor = low_rank(shape, rank)
    cp = cpnb.cp_nls(tensor, rank, max_degeneracy=None, n_iter_max=300, tol=1e-14)
    assert cp.rel_error < 1e-8
    torch.testing.assert_close(cp.to_tensor(), tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", [cpnb.cp_nls, cpnb.cp_als, cpnb.cp_greedy])
@pytest.mark.parametrize(
    "shape", [(6, 5), (4, 3, 5), (3, 3, 5, 4), (2, 3, 2, 4, 3), (1, 6, 1, 5), (1, 1)]
)
def test_reported_figures_are_those_of_the_factors(method, shape):
    tensor = low_rank(shape, 4, seed=2, noise=0.5)
    with pytest.warns(UserWarning) if tensor.numel() // max(shape) < 4 else _nothing():
        cp = method(tensor, 4)
    size = tensor.norm()
    error = float((tensor - cp.to_tensor()).norm() / size)
    terms = math.prod((u.square().sum(0) for u in cp.factors), start=torch.ones(()))
    assert cp.rel_error == pytest.approx(error, rel=1e-6, abs=1e-7)
    assert cp.degeneracy == pytest.approx(float(terms.sum() / size**2), rel=1e-6)
    errors = [h.rel_error for h in cp.history]
    assert all(b <= a for a, b in zip(errors, errors[1:], strict=False))


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *exc):
        return False


def border_rank_tensor():
    """a∘a∘b + a∘b∘a + b∘a∘a: rank 3, but a limit of rank-2 tensors (de Silva & Lim 2008)."""
    a, b = torch.eye(2, dtype=torch.float64)
    e = torch.einsum
    return e("i,j,k->ijk", a, a, b) + e("i,j,k->ijk", a, b, a) + e("i,j,k->ijk", b, a, a)


@pytest.mark.parametrize("bound", [1.0, 3.0, 10.0])
def test_bound_on_degeneracy_is_kept_and_used(bound):
    tensor = border_rank_tensor()
    plain = cpnb.cp_nls(tensor, 2, max_degeneracy=None, n_iter_max=500)
    stable = cpnb.cp_nls(tensor, 2, max_degeneracy=bound, n_iter_max=500)
    assert plain.degeneracy > 100  # no best rank-2 approximation exists: the terms diverge
    assert 0.95 * bound <= stable.degeneracy <= bound
    assert plain.rel_error < stable.rel_error < 1


def test_a_bound_that_does_not_bind_changes_nothing():
    tensor = low_rank((4, 5, 6), 3)
    cp = cpnb.cp_nls(tensor, 3, max_degeneracy=100.0, tol=1e-14)
    assert cp.rel_error < 1e-7


def test_nls_beats_greedy_and_matches_als():
    tensor = low_rank((3, 3, 8, 12), 10, seed=3, noise=1.0)
    nls, als, greedy = (f(tensor, 8).rel_error for f in (cpnb.cp_nls, cpnb.cp_als, cpnb.cp_greedy))
    assert nls <= als * 1.01 < greedy


@settings(max_examples=15, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    rank=st.integers(1, 6),
    seed=st.integers(0, 10),
)
def test_any_shape_stays_finite_monotone_and_bounded(shape, rank, seed):
    g = torch.Generator().manual_seed(seed)
    tensor = torch.randn(*shape, generator=g, dtype=torch.float64)
    enough = tensor.numel() // max(shape)
    cp = cpnb.cp_nls(tensor, min(rank, enough), n_iter_max=20, random_state=seed)
    assert math.isfinite(cp.rel_error) and cp.rel_error <= 1 + 1e-9
    assert cp.degeneracy <= 10
    assert all(torch.isfinite(u).all() for u in cp.factors)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scale_invariance(scale, dtype):
    tensor = low_rank((3, 3, 4, 5), 4, noise=0.2).to(dtype)
    one = cpnb.cp_nls(tensor, 3, n_iter_max=30)
    other = cpnb.cp_nls(tensor * scale, 3, n_iter_max=30)
    assert other.rel_error == pytest.approx(one.rel_error, rel=1e-3)
    back = other.to_tensor() / scale
    torch.testing.assert_close(back, one.to_tensor(), rtol=1e-2, atol=1e-2)


def test_permuted_modes_fit_as_well():
    tensor = low_rank((3, 4, 5, 6), 4, noise=0.1)
    one = cpnb.cp_nls(tensor, 4).rel_error
    assert cpnb.cp_nls(tensor.permute(2, 0, 3, 1), 4).rel_error == pytest.approx(one, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int32])
def test_dtypes(dtype):
    tensor = (low_rank((4, 5, 6), 2) * 10).to(dtype)
    cp = cpnb.cp_nls(tensor, 2)
    expected = dtype if dtype.is_floating_point else torch.float32
    assert all(u.dtype == expected for u in cp.factors)
    assert cp.rel_error < 0.05


def test_seeded_and_array_input():
    tensor = low_rank((3, 3, 6, 7), 6, noise=0.3)
    one, same = (
        cpnb.cp_nls(tensor, 9, random_state=1),
        cpnb.cp_nls(tensor.numpy(), 9, random_state=1),
    )
    other = cpnb.cp_nls(tensor, 9, random_state=2)
    assert all(torch.equal(a, b) for a, b in zip(one.factors, same.factors, strict=True))
    assert not torch.equal(one.factors[0], other.factors[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_matches_cpu():
    tensor = low_rank((3, 3, 8, 9), 6, noise=0.3)
    cp = cpnb.cp_nls(tensor.cuda(), 6, n_iter_max=50)
    assert cp.factors[0].is_cuda
    assert cp.rel_error == pytest.approx(cpnb.cp_nls(tensor, 6, n_iter_max=50).rel_error, rel=1e-3)


def test_a_given_start_is_used_even_when_degenerate():
    tensor = low_rank((3, 3, 6, 7), 6, noise=0.3)
    first = cpnb.cp_nls(tensor, 4, n_iter_max=100)
    again = cpnb.cp_nls(tensor, 4, init=first, n_iter_max=5)
    assert again.history[0].rel_error == pytest.approx(first.rel_error, abs=1e-3)
    divergent = cpnb.cp_nls(border_rank_tensor(), 2, max_degeneracy=None, n_iter_max=300)
    tamed = cpnb.cp_nls(border_rank_tensor(), 2, init=divergent, max_degeneracy=5.0)
    assert tamed.degeneracy <= 5.0


def test_callback_sees_each_iteration_and_can_stop():
    seen = []
    tensor = low_rank((4, 5, 6), 5, noise=0.3)
    cp = cpnb.cp_nls(tensor, 4, callback=lambda it: seen.append(it) or len(seen) == 3)
    assert seen == cp.history and len(seen) == 3


TENSOR = torch.randn(3, 4, 5)


@pytest.mark.parametrize("method", [cpnb.cp_nls, cpnb.cp_als, cpnb.cp_greedy])
@pytest.mark.parametrize(
    "tensor,rank,error,message",
    [
        (TENSOR, 0, ValueError, "rank must be an integer >= 1, got 0"),
        (TENSOR, 1.5, TypeError, "rank must be an integer >= 1, got 1.5"),
        (TENSOR * math.nan, 2, ValueError, "60 NaN or Inf of 60"),
        (TENSOR / 0.0, 2, ValueError, "NaN or Inf"),
        (TENSOR * 0, 2, ValueError, "all zeros"),
        (TENSOR[0, 0], 2, ValueError, r"order >= 2, got shape \(5,\)"),
        (TENSOR[:0], 2, ValueError, "must not be empty"),
        (TENSOR.cfloat(), 2, TypeError, "must be real"),
    ],
)
def test_bad_input(method, tensor, rank, error, message):
    with pytest.raises(error, match=message):
        method(tensor, rank)


@pytest.mark.parametrize(
    "option,message",
    [
        ({"init": "hosvd"}, "init must be .*'hosvd'"),
        ({"init": 3}, "init must be .* got int"),
        ({"max_degeneracy": 0.0}, "max_degeneracy must be positive or None, got 0.0"),
        ({"init": (None, [torch.ones(3, 2)] * 3)}, "factors of shapes"),
    ],
)
def test_bad_options(option, message):
    with pytest.raises(ValueError, match=message):
        cpnb.cp_nls(TENSOR, 2, **option)


# Batches and starts


def test_batched_and_single_agree():
    tensors = [low_rank((3, 3, 6, 7), 6, seed=s, noise=0.3) for s in range(3)]
    together = cpnb.cp_nls_batch(tensors, 5, n_iter_max=25)
    for tensor, cp in zip(tensors, together, strict=True):
        alone = cpnb.cp_nls(tensor, 5, n_iter_max=25)
        assert cp.rel_error == pytest.approx(alone.rel_error, rel=1e-6)
        assert len(cp.history) == len(alone.history)
        torch.testing.assert_close(cp.to_tensor(), alone.to_tensor(), rtol=1e-3, atol=1e-3)


def test_a_problem_that_is_done_stays_as_it_is_while_others_go_on():
    easy, hard = low_rank((3, 3, 6, 7), 2), low_rank((3, 3, 6, 7), 9, noise=0.5)
    done, other = cpnb.cp_nls_batch([easy, hard], 5, tol=1e-4)
    assert len(done.history) < len(other.history) - 3
    for cp in (done, other):
        assert cp.rel_error == pytest.approx(cp.history[-1].rel_error, rel=1e-12)
        assert cp.degeneracy == pytest.approx(cp.history[-1].degeneracy, rel=1e-12)


def test_the_best_of_several_starts_is_returned():
    tensor = low_rank((3, 3, 8, 9), 12, noise=1.0)
    singles = [cpnb.cp_nls(tensor, 6, random_state=s, init="random").rel_error for s in range(4)]
    best = cpnb.cp_nls(tensor, 6, init="random", n_starts=4).rel_error
    assert max(singles) > 1.02 * min(singles)  # or the worst would pass for the best
    assert best == pytest.approx(min(singles), rel=1e-4)


@pytest.mark.parametrize("init", ["svd", "random", "slices", "grow"])
@pytest.mark.parametrize("shape,rank", [((6, 7), 3), ((5, 6, 7), 4), ((3, 3, 8, 9), 12)])
def test_every_start_leads_to_a_good_fit(init, shape, rank):
    tensor = low_rank(shape, rank, noise=0.01)
    assert cpnb.cp_nls(tensor, rank, init, n_starts=3).rel_error < 0.02


@pytest.mark.parametrize("n_starts", [0, 1.5, True])
def test_bad_number_of_starts(n_starts):
    with pytest.raises(ValueError, match="n_starts must be an integer >= 1"):
        cpnb.cp_nls(TENSOR, 2, n_starts=n_starts)


def test_a_given_start_is_one_start():
    first = cpnb.cp_nls(TENSOR, 2, n_iter_max=2)
    with pytest.raises(ValueError, match="n_starts must be 1 with a given init, got 3"):
        cpnb.cp_nls(TENSOR, 2, init=first, n_starts=3)


def test_tensors_of_a_batch_have_one_shape():
    with pytest.raises(ValueError, match="same shape"):
        cpnb.cp_nls_batch([TENSOR, TENSOR[:2]], 2)
    with pytest.raises(ValueError, match="one entry a tensor, 1, got 2"):
        cpnb.cp_nls_batch([TENSOR], 2, weight=[None, None])


@pytest.mark.parametrize("seed", range(5))
def test_collinear_factors_are_found(seed):
    """Exact rank 8, every pair of columns at a cosine of 0.9 in every factor."""
    g = torch.Generator().manual_seed(seed)
    gram = torch.full((8, 8), 0.9, dtype=torch.float64).fill_diagonal_(1)
    root = torch.linalg.cholesky(gram).T
    bases = [torch.randn(i, 8, generator=g, dtype=torch.float64) for i in (9, 10, 11, 12)]
    tensor = cp_to_tensor([torch.linalg.qr(b)[0] @ root for b in bases])
    cp = cpnb.cp_nls(tensor, 8, tol=1e-13, random_state=seed)
    assert cp.rel_error < 1e-8


def test_a_mode_that_carries_nothing_new_is_compressed_without_loss():
    """A mode larger than all others together, and one of low rank, are solved on their ranges."""
    g = torch.Generator().manual_seed(0)
    core = torch.randn(3, 4, 5, generator=g, dtype=torch.float64)
    tall = torch.linalg.qr(torch.randn(40, 3, generator=g, dtype=torch.float64))[0]
    big = torch.einsum("ai,ijk->ajk", tall, core)
    one, other = (cpnb.cp_nls(t, 4, n_starts=6, init="random") for t in (core, big))
    assert other.factors[0].shape == (40, 4)
    assert other.rel_error == pytest.approx(one.rel_error, rel=1e-3)
    rebuilt = float((big - other.to_tensor()).norm() / big.norm())
    assert rebuilt == pytest.approx(other.rel_error, rel=1e-8)


def test_the_bound_holds_from_the_first_step_on():
    tensor = low_rank((3, 3, 8, 9), 30, noise=0.3)
    cp = cpnb.cp_nls(tensor, 14, max_degeneracy=0.8, n_iter_max=60)
    assert all(row.degeneracy <= 0.8 * (1 + 1e-9) for row in cp.history)
    assert cp.degeneracy == pytest.approx(0.8, rel=0.01)
