"""One line records a run: what it is told, what it finds out by itself."""

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook
from torch import nn

import cpnb
from cpnb.runs.notebooks import run_notebook
from cpnb.study import recording, report

PARAMETERS = {"rank": 4, "dataset": "characters", "test_size": 1000}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """This test's own file of records."""
    monkeypatch.setenv("CPNB_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results" / "records.jsonl"


@pytest.fixture
def notebook(results, monkeypatch):
    """As if 03_x ran."""
    monkeypatch.setattr(recording, "own_parameters", lambda: ("03_x", dict(PARAMETERS)))
    return results


def two_convolutions():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3)).eval()


def test_a_row_has_the_notebook_its_parameters_and_the_columns_given(notebook):
    row = recording.record("x", {"speedup": 2.0, "bound": 3.0}, {"seed": 1}, accuracy=0.9)
    (written,) = cpnb.recorded(notebook)
    assert row["notebook"] == "03_x" and row["parameters"] == PARAMETERS
    assert {k: row[k] for k in ("claim", "speedup", "bound", "seed", "accuracy")} == {
        "claim": "x", "speedup": 2.0, "bound": 3.0, "seed": 1, "accuracy": 0.9,
    }  # fmt: skip
    assert row["threads"] == torch.get_num_threads() and row["commit"]
    assert written == PARAMETERS | row  # a parameter reads like any column


def test_where_a_column_and_a_parameter_have_a_name_the_column_counts(notebook):
    recording.record("x", test_size=1510)
    (row,) = cpnb.recorded(notebook, test_size=1510)
    assert row["parameters"]["test_size"] == 1000
    assert not cpnb.recorded(notebook, test_size=1000)


@pytest.mark.parametrize(
    ("parts", "values", "name"),
    [
        (({"speedup": 1.0}, {"speedup": 2.0}), {}, "speedup"),
        (({"speedup": 1.0},), {"speedup": 2.0}, "speedup"),
        (({"parameters": {}},), {}, "parameters"),
        ((), {"notebook": "04"}, "notebook"),
    ],
)
def test_a_column_given_twice_is_an_error_and_nothing_is_written(notebook, parts, values, name):
    with pytest.raises(ValueError, match=f"{name}: given twice"):
        recording.record("x", *parts, **values)
    assert not notebook.exists()


def test_outside_a_notebook_nothing_is_recorded(results):
    with pytest.raises(RuntimeError, match="in a notebook's kernel"):
        recording.record("x", accuracy=0.9)
    assert not results.exists()


def test_a_notebook_records_by_one_line(tmp_path, results):
    cells = [
        new_code_cell("rank = 4\nseed = 0", metadata={"tags": ["parameters"]}),
        new_code_cell("from cpnb import study\n\nrow = study.record('x', accuracy=0.9)"),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "03_x.ipynb")
    run_notebook(tmp_path / "03_x.ipynb", tmp_path / "out" / "x.ipynb", {"rank": 7}, progress=False)
    (row,) = cpnb.recorded(results, claim="x", rank=7, seed=0)
    assert row["notebook"] == "03_x" and row["accuracy"] == 0.9


def test_fits_are_those_of_the_layers_named_in_their_order():
    net = cpnb.decompose(two_convolutions(), {"2": 3})
    net = cpnb.decompose(net, {"0": 2}, method="jaderberg")
    columns = recording.fits(net, ["2", "0"])
    assert columns["layers"] == ["2", "0"] and columns["ranks"][0] == 3
    assert columns["rel_error"] == [net[2].rel_error, net[0].rel_error]
    assert columns["degeneracy"] == [net[2].degeneracy, None]  # its terms cannot cancel


def test_versus_counts_and_times_both_nets():
    dense = two_convolutions()
    small = cpnb.decompose(dense, {"2": 1})
    example = torch.randn(5, 3, 9, 9)
    columns = recording.versus(dense, small, example, seconds=0.01)
    assert columns["multiplies_dense"] == cpnb.count_multiplies(dense, example)
    assert columns["multiplies"] == cpnb.count_multiplies(small, example)
    assert columns["bound"] == columns["multiplies_dense"] / columns["multiplies"] > 1
    ratio = columns["latency_dense"].median_ms / columns["latency"].median_ms
    assert columns["speedup"] == ratio
    assert {columns["layout_dense"], columns["layout"]} <= {"NCHW", "channels_last"}
    assert columns["input"] == [5, 3, 9, 9]


def test_what_versus_gives_can_be_recorded(notebook):
    dense = two_convolutions()
    small = cpnb.decompose(dense, {"2": 1})
    speed = recording.versus(dense, small, torch.randn(1, 3, 9, 9), seconds=0.01)
    row = recording.record("x", recording.fits(small, ["2"]), speed)
    assert row["latency"]["device"] == "cpu" and row["latency"]["median_ms"] > 0
    assert row["ranks"] == [1] and row["speedup"] == speed["speedup"]


def test_claims_understand_what_notebooks_02_and_03_record(results, monkeypatch):
    trained = {"seed": 0, "dataset": "chars74k", "test_size": 1000, "save_to": "weights"}
    monkeypatch.setattr(recording, "own_parameters", lambda: ("02_train_charnet", trained))
    shares = {"accuracy": 0.91, "accuracy_good": 0.95, "accuracy_drawn": 0.88}
    recording.record("charnet-baseline", shares, test_size=1510, seconds=60.0, saved=True)
    given = {"layer": "conv2", "dataset": "chars74k", "n_iter_max": 200, "seed": 0, "ranks": [64]}
    monkeypatch.setattr(recording, "own_parameters", lambda: ("03_decompose", given))
    for method, error, size in (
        ("nls", 0.78, 10.0),
        ("nls-plain", 0.78, 5e4),
        ("greedy", 0.8, 0.3),
    ):
        row = {"rank": 64, "method": method, "rel_error": error, "degeneracy": size}
        recording.record("layer-decomposition", row, test_size=1510, accuracy_baseline=0.91)
    told = {line.claim: line for line in report.lines(cpnb.recorded(results))}
    baseline = told["CharNet, the baseline"]
    assert "95.0% (93.4 to 96.2) of the 956 of its GoodImg part" in baseline.here
    assert "91.0% (89.4 to 92.3) of all 1,510 characters" in baseline.here
    assert told["NLS against greedy deflation"].verdict == "yes; one seed, so no spread is known"
    assert told["Low-rank CP is unstable"].verdict == (
        "terms cancel in plain NLS, on CharNet, one seed; not in bounded NLS"
    )
