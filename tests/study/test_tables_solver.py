"""Recorded solvers: medians over seeds, ours of the newest code, peers within their time."""

import math

import pytest

from cpnb.study import tables
from cpnb.study.tables import solver
from cpnb.study.tables.solver import BOUNDED, LONG, PLAIN

MACHINE = {"cpu": "Some CPU", "simd": "AVX2", "gpu": None, "device": "cpu", "threads": 2}


def run(method, rel_error, seed=0, limit=1.5, commit="new", trace=(), tensor="CharNet conv2"):
    row = {
        "claim": "solver-benchmark", "tensor": tensor, "rank": 64, "method": method, "seed": seed,
        "limit_seconds": limit, "rel_error": rel_error, "commit": commit, "trace": trace,
        "versions": {"torch": "2.15.0"},
    }  # fmt: skip
    return MACHINE | row


def started(init, rel_error, seed=0, layer="conv2", commit="new"):
    row = {
        "claim": "solver-starts", "layer": layer, "rank": 64, "init": init, "seed": seed,
        "limit_seconds": 0.5, "rel_error": rel_error, "commit": commit,
        "versions": {"torch": "2.15.0"},
    }  # fmt: skip
    return MACHINE | row


def lines(table):
    return table.data.to_dict("records")


@pytest.mark.parametrize(
    ("errors", "text"),
    [
        ([0.7845], "0.7845"),
        ([0.79, 0.78, 0.7844], "0.7844 ± 0.0050"),
        ([1.76e-14], "2e−14"),
        ([2e-7, 8e-7, 0.0051], "8e−7 (≤ 0.0051)"),
        ([0.0, 0.0], "0.0000 (≤ 0.0000)"),
        ([], "–"),
    ],
)
def test_errors_have_their_scatter_and_exact_ones_the_largest(errors, text):
    assert solver.scatter(errors) == text


def test_errors_are_medians_over_seeds_a_column_a_solver():
    rows = [run(PLAIN, e, seed) for seed, e in enumerate((0.781, 0.783, 0.790))]
    rows += [run("TensorLy", 0.80, limit=15.0), run(BOUNDED, 0.79)]
    (line,) = lines(tables.solver_errors(rows))
    assert line["tensor"] == "CharNet conv2, R=64" and line["seconds"] == "1.5"
    assert line["cpnb NLS, plain"] == "0.7830 ± 0.0045"
    assert line["TensorLy"] == "0.8000" and line["pyttb"] == "–"


def test_of_ours_the_newest_code_counts_and_of_peers_the_newest_run_of_a_seed():
    rows = [
        run(PLAIN, 0.9, seed=0, commit="old"), run(PLAIN, 0.9, seed=1, commit="old"),
        run("pyttb", 0.84, seed=0, commit="old"), run("pyttb", 0.82, seed=1, commit="old"),
        run(PLAIN, 0.78, seed=0), run("pyttb", 0.80, seed=0),
    ]  # fmt: skip
    (line,) = lines(tables.solver_errors(rows))
    assert line["cpnb NLS, plain"] == "0.7800" and line["pyttb"] == "0.8100 ± 0.0100"


def test_peers_that_had_more_than_their_time_are_left_out():
    rows = [
        run(PLAIN, 0.78, limit=1.0),
        run("TensorLy", 0.7, limit=11.0),
        run(LONG, 0.6, limit=9e9),
    ]
    (line,) = lines(tables.solver_errors(rows))
    assert line["TensorLy"] == "–" and line["cpnb NLS, plain"] == "0.7800"
    assert "nothing recorded" in repr(tables.solver_errors(rows[1:]))


def test_ranks_stand_in_the_name_once():
    rows = [run(PLAIN, 0.5, tensor="small AlexNet conv2, R=200") | {"rank": 200}]
    assert lines(tables.solver_errors(rows))[0]["tensor"] == "small AlexNet conv2, R=200"


def test_seconds_are_those_to_the_error_of_the_same_seed():
    rows = []
    for seed, (whole, first) in enumerate([(20.0, 0.5), (30.0, 1.0), (10.0, 0.1)]):
        rows.append(run(LONG, 0.79, seed, math.inf, trace=[[1.0, 0.9], [whole, 0.79]]))
        rows.append(run(BOUNDED, 0.7, seed, trace=[[0.01, 0.8], [first, 0.79], [2.0, 0.7]]))
    rows.append(run(PLAIN, 0.795, trace=[[0.5, 0.795]]))  # never as low, and one seed alone
    (line,) = lines(tables.solver_seconds(rows))
    assert line["kernel"] == "CharNet conv2, R=64" and line["seeds"] == "3"
    assert line["TensorLy (s)"] == "20.0 (10.0 to 30.0)"
    assert line["cpnb NLS, bounded (s)"] == "0.50 (0.10 to 1.00)"
    assert line["cpnb NLS, plain (s)"] == "inf"
    assert line["bounded is sooner by"] == "40× (30× to 100×)"


def test_starts_are_compared_with_the_best_of_each_kernel():
    rows = [started("svd", 0.9, seed=9, commit="old")]
    rows += [started("svd", e, seed) for seed, e in enumerate((0.500, 0.501, 0.502))]
    rows += [started("random", 0.500), started("svd", 0.4, layer="conv3")]
    rows += [started("random", 0.404, layer="conv3")]
    first, second, last = lines(tables.solver_starts(rows))
    assert first["kernel"] == "conv2, R=64" and first["seconds"] == "0.5"
    assert first["svd"] == "0.5010 ± 0.0010" and first["random"] == "0.5000"
    assert second["random"] == "0.4040"
    assert last["kernel"].startswith("above the best start") and last["seconds"] == "–"
    assert last["svd"] == "0.100%" and last["random"] == "0.500%"


def test_a_kernel_that_only_older_code_was_started_on_stays():
    rows = [started("svd", 0.3, layer="conv1", commit="old"), started("svd", 0.5)]
    assert [line["svd"] for line in lines(tables.solver_starts(rows))][:2] == ["0.3000", "0.5000"]


TABLES = [tables.solver_errors, tables.solver_seconds, tables.solver_starts]


@pytest.mark.parametrize("table", TABLES)
def test_without_rows_the_command_is_told(table):
    assert "make bench-solver" in repr(table([]))
    assert "make bench-solver" in repr(table([MACHINE | {"claim": "other"}]))


@pytest.mark.parametrize("table", TABLES)
def test_the_committed_records_fill_it(table):
    shown = table()
    assert len(shown.data) >= 2 and " threads" in shown.caption and "torch" in shown.caption
    assert len(shown.data.columns) <= 9
    assert not {"cpnb, stable", "rel_error", "limit_seconds", "init"} & set(shown.data.columns)
