"""The recorded training of the baseline, and tables of what a page has just computed."""

import torch

import cpnb
from cpnb.study import tables


def trained(seed=0, commit="new", **values):
    row = {
        "claim": "charnet-baseline", "dataset": "chars74k", "saved": True, "seed": seed,
        "commit": commit, "accuracy": 0.913, "accuracy_good": 0.948, "accuracy_drawn": 0.8815,
        "samples": 480400, "epochs": 20, "seconds": 745.6, "test_size": 1510, "cpu": "Some CPU",
        "gpu": None, "device": "cpu", "threads": 2, "drawn_size": 2000,
        "versions": {"torch": "2.15.0"},
    }  # fmt: skip
    return row | values


def lines(table):
    return table.data.to_dict("records")


def test_the_run_is_told_with_units_and_its_machine_above():
    table = tables.training([trained()])
    assert lines(table) == [{
        "accuracy": "91.3%", "GoodImg alone": "94.8%", "drawn, unseen fonts": "88.2%",
        "patches trained on": "480,400", "epochs": "20", "minutes": "12", "runs": "1",
    }]  # fmt: skip
    assert table.caption == (
        "1,510 characters of Chars74K's test split, 956 of them GoodImg; 2,000 drawn; "
        "95% intervals up to ±1.4 points; Some CPU, 2 threads; torch 2.15.0"
    )


def test_the_caption_is_as_unsure_as_its_least_sure_column():
    caption = tables.training([trained(accuracy_good=0.5)]).caption
    assert "up to ±3.2 points" in caption  # of 956 characters, not of 1,510
    caption = tables.training([trained(accuracy_drawn=0.5)]).caption
    assert "up to ±2.2 points" in caption  # of 2,000


def test_seeds_are_spread_over_one_line_and_older_code_left_out():
    rows = [trained(5, commit="old", accuracy=0.5), trained(accuracy=0.6), trained(accuracy=0.91)]
    (line,) = lines(tables.training([*rows, trained(seed=1, accuracy=0.93)]))
    assert line["accuracy"] == "92.0% (91.0% to 93.0%)" and line["runs"] == "2"


def test_only_weights_that_were_kept_and_real_characters_count():
    told = repr(tables.training([trained(saved=False), trained(dataset="characters")]))
    assert "cpnb sweep notebooks/02_train_charnet.ipynb" in told


def test_the_committed_records_fill_it():
    (line,) = lines(tables.training())
    assert line["accuracy"] == "91.3%"


def test_multiplies_of_each_layer_and_their_share():
    shown = lines(tables.multiplies(cpnb.load_charnet(), torch.zeros(5, 1, 24, 24)))
    assert [line["layer"] for line in shown] == ["conv1", "conv2", "conv3", "conv4"]
    assert shown[1]["multiplies a patch"] == "31,850,496"  # of one, not of five
    assert [line["share of the net"] for line in shown] == ["5.5%", "88.6%", "5.8%", "0.1%"]


def test_where_solvers_ended():
    cp = cpnb.cp_als(torch.randn(3, 4, 5), 2, n_iter_max=7, tol=0.0)
    (line,) = lines(tables.solver_results({"ALS": cp}))
    assert line["solver"] == "ALS" and line["steps, sweeps or terms"] == "7"
    assert line["relative error"] == f"{cp.rel_error:.4f}"
