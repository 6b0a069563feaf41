"""The reduced Gauss–Newton model against autograd and dense linear algebra, in float64."""

import math

import pytest
import torch

from cpnb.cp.algebra import cp_to_tensor, hadamard_but, normalise
from cpnb.cp.descent import Point
from cpnb.cp.gauss_newton import CG_MAX, CG_TOLERANCE, bounded_least_squares, conjugate_gradients
from cpnb.cp.mttkrp import MttkrpTree
from cpnb.cp.nls import cp_nls

SHAPES = [(6, 5), (4, 3, 5), (3, 3, 5, 4), (2, 3, 2, 4, 3), (1, 6, 1, 5)]
RANK = 3


def point_of(shape, binds, seed=1, batch=1):
    """A tensor, its tree, and a point at which the bound does or does not bind."""
    g = torch.Generator().manual_seed(seed)
    work, _ = normalise(torch.randn(*shape, generator=g, dtype=torch.float64))
    tree = MttkrpTree(work)
    factors = [torch.randn(batch, i, RANK, generator=g, dtype=torch.float64) * 0.4 for i in shape]
    zero = torch.zeros(batch, 1, 1, dtype=torch.float64)
    free = Point.at(tree, factors, math.inf, zero)
    bound = 0.5 * float(free.degeneracy.min()) if binds else math.inf
    return work, tree, Point.at(tree, factors, bound, zero), bound


def sum_sq(factors):
    return math.prod(u.square().sum(0) for u in factors).sum()


def split(point):
    return [u[0] for u in point.factors]


@pytest.mark.parametrize("binds", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_autograds(shape, binds):
    """Of the Lagrangian; with the largest mode solved for, that mode's own part is zero."""
    work, tree, point, bound = point_of(shape, binds)
    mu = float(point.mu)
    assert (mu > 0) == binds
    leaves = [u.clone().requires_grad_() for u in split(point)]
    error = (work - cp_to_tensor(leaves)).square().sum()
    merit = 0.5 * error + (0.5 * mu * (sum_sq(leaves) - bound) if binds else 0)
    gradient = torch.autograd.grad(merit, leaves)
    model = point.model(tree)
    expected = torch.cat([gradient[n] for n in model.kept])
    torch.testing.assert_close(model.gradient[0], expected, rtol=1e-10, atol=1e-10)
    # The inner problem is solved by its normal equations, to their rounding.
    assert float(gradient[tree.largest].abs().max()) < 1e-10
    assert float(point.merit(bound)) == pytest.approx(float(merit.detach()), rel=1e-10)
    assert float(point.sq_error) == pytest.approx(float(error.detach()), rel=1e-10)


def reduced_matrix(point, tree, damping):
    """S + λI by dense linear algebra: Jacobians by autograd, mode e eliminated by a solve."""
    e, mu = tree.largest, float(point.mu)
    factors = split(point)
    order = [n for n in range(len(factors)) if n != e] + [e]
    sizes = [factors[n].numel() for n in order]

    def unpack(x):
        parts = dict(zip(order, x.split(sizes), strict=True))
        return [parts[n].view_as(factors[n]) for n in range(len(factors))]

    def terms(x):
        columns = [cp_to_tensor([u[:, [r]] for u in unpack(x)]).flatten() for r in range(RANK)]
        return torch.cat(columns)

    x = torch.cat([factors[n].flatten() for n in order])
    J = torch.func.jacrev(lambda x: cp_to_tensor(unpack(x)).flatten())(x)
    Jt = torch.func.jacrev(terms)(x)
    H = J.T @ J + mu * Jt.T @ Jt + damping * torch.eye(len(x), dtype=x.dtype)
    k = len(x) - sizes[-1]
    if mu == 0:
        return H[:k, :k] - H[:k, k:] @ torch.linalg.solve(H[k:, k:], H[k:, :k])
    # Eliminate U_e and the multiplier of the condition that Σ‖term‖² stays the same.
    normal = torch.func.jacrev(lambda x: 0.5 * sum_sq(unpack(x)))(x)
    border = torch.cat([H[k:, k:], normal[k:, None]], dim=1)
    border = torch.cat([border, torch.cat([normal[k:], normal.new_zeros(1)])[None]])
    coupling = torch.cat([H[:k, k:], normal[:k, None]], dim=1)
    return H[:k, :k] - coupling @ torch.linalg.solve(border, coupling.T)


@pytest.mark.parametrize("binds", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_matrix_vector_product_is_autograds(shape, binds):
    _, tree, point, _ = point_of(shape, binds)
    damping = 0.05
    model = point.model(tree)
    model.prepare(torch.full_like(point.mu, damping))
    g = torch.Generator().manual_seed(5)
    x = torch.randn(model.gradient.shape, generator=g, dtype=torch.float64)
    expected = reduced_matrix(point, tree, damping) @ x.flatten()
    got = model.product(x).flatten()
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("binds", [False, True])
def test_dense_and_iterative_step_agree(monkeypatch, binds):
    monkeypatch.setattr("cpnb.cp.gauss_newton.CG_TOLERANCE", 1e-12)
    monkeypatch.setattr("cpnb.cp.gauss_newton.CG_MAX", 500)
    monkeypatch.setattr("cpnb.cp.descent.FLOAT32_UP_TO", 0)
    _, tree, point, _ = point_of((3, 3, 5, 4), binds, batch=2)
    model = point.model(tree)
    damping = 0.01 * model.scale
    dense, gain, _ = model.step(damping)
    monkeypatch.setattr("cpnb.cp.gauss_newton.DENSE_UP_TO", 0)
    iterative, same_gain, count = point.model(tree).step(damping)
    assert count > 1
    torch.testing.assert_close(same_gain, gain, rtol=1e-6, atol=0)
    for a, b in zip(dense, iterative, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("smaller", [1.0, 1e-30])
@pytest.mark.parametrize("binds", [False, True])
def test_a_step_by_float32_solves_the_equations_of_float64(monkeypatch, binds, smaller):
    """However small the gradient is: float32 ends at 1e-38, and CG squares."""
    monkeypatch.setattr("cpnb.cp.gauss_newton.DENSE_UP_TO", 0)
    _, tree, point, _ = point_of((3, 3, 5, 4), binds, batch=2)
    model = point.model(tree)
    assert model.dtype == torch.float32
    model.gradient *= smaller
    step, predicted, count = model.step(0.01 * model.scale)
    step = torch.cat(step, dim=-2)
    assert count > 0 and step.dtype == predicted.dtype == torch.float64
    monkeypatch.setattr("cpnb.cp.descent.FLOAT32_UP_TO", 0)
    exact = point.model(tree)
    exact.prepare(0.01 * exact.scale)
    residual = (exact.product(step) + model.gradient).norm(dim=(-2, -1))
    # CG's own tolerance and some for float32's rounding.
    assert bool((residual <= (CG_TOLERANCE + 1e-4) * model.gradient.norm(dim=(-2, -1))).all())


def test_collinear_terms_do_not_wear_out_float32():
    """Σ‖term‖² does not show it: a damping below float32's rounding would, by CG at its limit."""
    g = torch.Generator().manual_seed(0)
    root = torch.linalg.cholesky(torch.full((8, 8), 0.9, dtype=torch.float64).fill_diagonal_(1)).T
    bases = [
        torch.linalg.qr(torch.randn(12, 8, generator=g, dtype=torch.float64))[0] for _ in "1234"
    ]
    cp = cp_nls(cp_to_tensor([q @ root for q in bases]), 8, random_state=1)
    assert cp.rel_error < 1e-10
    assert max(row.cg_iterations for row in cp.history) < CG_MAX


def test_terms_that_cancel_are_worked_on_in_float64(monkeypatch):
    monkeypatch.setattr("cpnb.cp.gauss_newton.DENSE_UP_TO", 0)
    _, tree, point, _ = point_of((3, 3, 5, 4), False)
    assert point.model(tree).dtype == torch.float32
    point.degeneracy = point.degeneracy + 1000
    assert point.model(tree).dtype == torch.float64


@pytest.mark.parametrize("bound", [math.inf, 3.0, 0.02])
def test_bounded_least_squares_meets_the_conditions_of_a_minimum(bound):
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(20, 6, generator=g, dtype=torch.float64)
    gamma, mttkrp = rows.T @ rows, torch.randn(4, 6, generator=g, dtype=torch.float64)
    u, mu = bounded_least_squares(
        gamma[None], mttkrp[None], bound, torch.zeros(1, 1, 1, dtype=torch.float64)
    )
    u, mu = u[0], float(mu)
    size = float((u.square() * gamma.diagonal()).sum())
    assert size <= bound and (mu == 0 or size == pytest.approx(bound, rel=1e-5))
    stationary = u @ (gamma + mu * torch.diag(gamma.diagonal())) - mttkrp
    assert float(stationary.abs().max()) < 1e-10 * float(mttkrp.abs().max())
    assert (mu > 0) == (bound == 0.02)


def test_the_bound_holds_where_its_root_is_not_found(monkeypatch):
    monkeypatch.setattr("cpnb.cp.gauss_newton.BOUND_TOLERANCE", -1.0)  # which nothing meets
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(20, 6, generator=g, dtype=torch.float64)
    gamma, mttkrp = rows.T @ rows, torch.randn(4, 6, generator=g, dtype=torch.float64)
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    u, _ = bounded_least_squares(gamma[None], mttkrp[None], 0.02, zero)
    assert float((u[0].square() * gamma.diagonal()).sum()) == pytest.approx(0.02, rel=1e-9)


def test_a_singular_problem_has_a_bounded_solution():
    """Two parallel terms: Γ has no inverse, the bound alone makes the solution finite."""
    column = torch.randn(5, 1, dtype=torch.float64)
    gamma = (column @ torch.ones(1, 2, dtype=torch.float64)).square().sum(0).expand(2, 2)
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    mttkrp = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    u, _ = bounded_least_squares(gamma[None], mttkrp[None], 2.0, zero)
    assert float((u[0].square() * gamma.diagonal()).sum()) <= 2.0


def test_conjugate_gradients_solve_a_batch_and_report_the_residual(monkeypatch):
    monkeypatch.setattr("cpnb.cp.gauss_newton.CG_TOLERANCE", 1e-12)
    g = torch.Generator().manual_seed(0)
    root = torch.randn(3, 8, 8, generator=g, dtype=torch.float64)
    root[1] = 0  # that one is solved in a single iteration, and must stay as it is
    matrix = root @ root.mT + torch.eye(8, dtype=torch.float64)
    rhs = torch.randn(3, 8, 1, generator=g, dtype=torch.float64)
    x, residual, count = conjugate_gradients(lambda v: matrix @ v, rhs, torch.clone)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, rhs))
    torch.testing.assert_close(residual, rhs - matrix @ x, rtol=0, atol=1e-9)
    assert count <= 20


def test_points_of_a_batch_are_replaced_one_by_one():
    _, tree, point, _ = point_of((3, 3, 5, 4), False, batch=2)
    _, _, other, _ = point_of((3, 3, 5, 4), False, seed=2, batch=2)
    mixed = point.replaced(torch.tensor([True, False]), other)
    for got, new, old in zip(mixed.factors, other.factors, point.factors, strict=True):
        assert torch.equal(got[0], new[0]) and torch.equal(got[1], old[1])
    assert float(mixed.sq_error[0]) == float(other.sq_error[0])
    gamma = hadamard_but(mixed.grams)
    torch.testing.assert_close(gamma[1], hadamard_but(point.grams)[1])
