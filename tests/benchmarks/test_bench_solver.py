"""The solver benchmark: its tensors are what they claim, its tables say what the rows say."""

import sys
from pathlib import Path

import pytest
import torch

import cpnb

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import bench_solver  # noqa: E402
import peers  # noqa: E402
import solver_report  # noqa: E402
import tensors  # noqa: E402


def test_matrix_multiplication_multiplies_matrices_and_has_rank_seven():
    tensor = tensors.matrix_multiplication()
    a, b = torch.randn(2, 2, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    product = torch.einsum("ijk,i,j->k", tensor, a.flatten(), b.flatten()).reshape(2, 2).T
    torch.testing.assert_close(product, a @ b)
    assert cpnb.cp_nls(tensor, 7, n_starts=8, init="random", tol=1e-12).rel_error < 1e-6


def test_collinear_tensor_has_rank_16_and_cosines_of_nine_tenths():
    tensor = bench_solver.collinear(0)
    unfolding = tensor.flatten(1)
    assert int(torch.linalg.matrix_rank(unfolding, rtol=1e-10)) == 16
    cp = cpnb.cp_nls(tensor, 16, tol=1e-13)
    u = cp.factors[0] / cp.factors[0].norm(dim=0)
    cosines = (u.T @ u).abs()[~torch.eye(16, dtype=torch.bool)]
    torch.testing.assert_close(cosines, torch.full_like(cosines, 0.9), rtol=1e-5, atol=0)


def test_error_and_degeneracy_of_foreign_factors():
    tensor = torch.randn(4, 5, 6, dtype=torch.float64)
    cp = cpnb.cp_nls(tensor, 3)
    weights = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)
    factors = [cp.factors[0] / weights, *cp.factors[1:]]
    error, degeneracy = peers.measure(tensor, [u.numpy() for u in factors], weights.numpy())
    assert error == pytest.approx(cp.rel_error, rel=1e-8)
    assert degeneracy == pytest.approx(cp.degeneracy, rel=1e-8)


@pytest.mark.parametrize("solver", ["cpnb, plain", "cpnb, stable", "cpnb ALS", "TensorLy"])
def test_solvers_that_are_always_there_run_within_their_time(solver):
    tensor, _ = bench_solver.normalise(tensors.kernel_like(6, 5, 3, 3))
    first = bench_solver.start(tensor, 4, "svd", 0)
    trace = peers.installed()[solver](tensor, 4, first, 0, 0.2)
    assert 0 < trace.final < 1 and trace.seconds == sorted(trace.seconds)
    assert trace.seconds[-1] < 5 and trace.iterations >= 1
    assert trace.rel_error[-1] == pytest.approx(trace.final, rel=1e-6)


def row(method, seed, error, trace, tensor="t", degeneracy=5.0):
    return {
        "tensor": tensor, "method": method, "seed": seed, "rel_error": error, "trace": trace,
        "degeneracy": degeneracy, "iterations": len(trace),
    }  # fmt: skip


def test_goals_are_medians_of_ratios_within_a_seed():
    rows = []
    for seed, shift in ((0, 0.0), (1, 0.01), (2, 0.5)):
        rows += [
            row(solver_report.PLAIN, seed, 0.5 + shift, [[1.0, 0.7], [2.0, 0.5 + shift]]),
            row(solver_report.STABLE, seed, 0.51 + shift, [[1.0, 0.6], [2.0, 0.51 + shift]]),
            row("peer", seed, 0.5, [[9.0, 0.5]]),
            row(solver_report.LONG, seed, 0.7, [[50.0, 0.7]]),
        ]
    rows.append(row("peer", 0, 0.5, [[9.0, 0.5]]) | {"tensor": "interrupted"})
    assert list(solver_report.goals(rows).index) == ["t"]
    goals = solver_report.goals(rows).loc["t"]
    assert goals["plain / best peer − 1"] == pytest.approx(0.02)  # 0, 0.02 and 1
    assert goals["TensorLy-400's seconds / plain's"] == pytest.approx(50.0)
    assert goals["stable / best unbounded − 1"] == pytest.approx(0.04)
    table = solver_report.comparison(rows).loc["t", "peer"]
    assert table["seeds"] == 3 and table["seconds"] == 9.0


def test_a_figure_is_drawn(tmp_path):
    rows = [row("a", 0, 0.5, [[0.1, 0.6], [1.0, 0.5]]), row("b", 0, 1e-12, [[1.0, 1e-12]], "u")]
    solver_report.draw(rows, tmp_path / "new" / "figure.svg")
    text = (tmp_path / "new" / "figure.svg").read_text()
    assert "seconds" in text and "relative error" in text
