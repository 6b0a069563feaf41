"""Tables of the pipeline's runs: the right runs, old rows and new ones, names a reader knows."""

import pytest

from cpnb.runs.records import append, load
from cpnb.study import sweeps, tables

MACHINE = {
    "cpu": "Some CPU", "simd": "AVX2", "gpu": None, "device": "cpu", "threads": 2,
    "versions": {"torch": "2.15.0"}, "commit": "c",
}  # fmt: skip
NLS = {"method": "nls", "max_degeneracy": 10.0}
BOUNDED = "NLS, bounded (≤\u00a010)"


def run(seed=0, finetuned=0.90, speedup=5.0, parameters=NLS, **values):
    """A row as `cpnb.recorded` gives it: parameters laid under what was measured."""
    parameters = {"seed": seed, "dataset": "chars74k"} | parameters
    row = {
        "claim": "charnet-finetune", "notebook": "04_finetune", "parameters": parameters,
        "layers": ["conv2", "conv3"], "ranks": [64, 64], "rel_error": [0.78, 0.85],
        "degeneracy": [10.0, 10.0], "accuracy_baseline": 0.91, "accuracy_decomposed": 0.88,
        "accuracy_finetuned": finetuned, "accuracy_baseline_good": 0.95,
        "accuracy_finetuned_good": 0.94, "speedup": speedup, "bound": 9.64, "test_size": 1510,
    }  # fmt: skip
    return parameters | MACHINE | row | values


def old(seed=0, **values):
    """A row from before parameters were read by themselves: some stand in columns of their own."""
    return run(seed, parameters={"max_degeneracy": 10.0, "lr": 0.01}, method="nls", **values)


def lines(table):
    return [dict(zip(table.data.columns, row, strict=True)) for row in table.data.to_numpy()]


def test_the_pipeline_is_told_by_its_newest_run_of_each_seed():
    rows = [
        old(0, finetuned=0.1), old(0, finetuned=0.902), run(1, finetuned=0.90, speedup=4.0),
        run(2, finetuned=0.89, speedup=4.4), run(3, ranks=[32, 96]),
        run(4, parameters=NLS | {"split": "validation"}),
    ]  # fmt: skip
    table = tables.finetuning(rows)
    told = {line[""]: line[f"Chars74K characters; {BOUNDED}"] for line in lines(table)}
    assert told["accuracy, fine-tuned"] == "89.7% (89.0% to 90.2%)"  # the mean, as in the report
    (speed,) = (told[what] for what in told if what.startswith("speed-up over dense in PyTorch"))
    assert speed == "4.4× (4.0× to 5.0×)"  # the median
    assert told["drop after fine-tuning (points)"] == "1.27 (0.80 to 2.00)"
    assert told["seeds"] == "3" and told["accuracy, baseline"] == "91.0%"
    assert told["steps of the solver"] == "–"  # rows from before it was a parameter
    assert "Some CPU (AVX2), 2 threads" in told["on"]


def test_each_start_and_each_data_set_has_a_column():
    rows = [
        run(),
        run(parameters=NLS | {"dataset": "characters"}),
        run(parameters={"method": "als"}),
    ]
    told = lines(tables.finetuning(rows))
    assert list(told[0])[1:] == [
        f"Chars74K characters; {BOUNDED}",
        f"drawn characters; {BOUNDED}",
        "Chars74K characters; ALS",
    ]
    (good,) = [line for line in told if line[""] == "fine-tuned, GoodImg alone"]
    assert list(good.values())[1:] == ["94.0%", "–", "94.0%"]  # drawn ones are all good


def test_conv1_stands_beside_the_same_net_without_it():
    three = {"layers": ["conv2", "conv3", "conv1"], "ranks": [32, 96, 24], "bound": 18.72}
    rate = NLS | {"lr": 0.003}
    rows = [
        run(0, parameters=rate | {"fit_images": 1500}, finetuned=0.906, **three),
        run(1, parameters=rate | {"fit_images": 1500}, finetuned=0.904, **three),
        run(0, parameters=rate | {"fit_images": 0}, **three),
        run(0, parameters=rate, ranks=[32, 96], bound=11.34),
        run(0, parameters=rate | {"max_degeneracy": 0.0}, ranks=[32, 96]),
    ]
    told = [tuple(line.values()) for line in lines(tables.conv1_too(rows))]
    assert told == [
        ("32", "96", "dense", "11.34×", "0.003", "test", "1.00", "1"),
        ("32", "96", "24, its patches", "18.72×", "0.003", "test", "0.50 (0.40 to 0.60)", "2"),
        ("32", "96", "24, its kernel", "18.72×", "0.003", "test", "1.00", "1"),
    ]


def test_starts_are_told_by_learning_rate():
    rows = [
        run(seed, finetuned=accuracy, claim="start-survival", parameters=start | {"lr": lr})
        for start, seed, lr, accuracy in (
            (NLS, 0, 0.01, 0.90), (NLS, 1, 0.01, 0.91), (NLS, 0, 0.05, 0.87),
            (NLS | {"max_degeneracy": 0.0}, 0, 0.01, 0.60),
        )
    ]  # fmt: skip
    bounded, plain = lines(tables.learning_rates(rows))
    assert bounded["start"] == BOUNDED and plain["start"].startswith("NLS, plain")
    usual, large = (f"fine-tuned, learning rate {lr}" for lr in (0.01, 0.05))
    assert bounded[usual] == "90.5% (90.0% to 91.0%), 2 runs" and bounded[large] == "87.0%, one run"
    assert plain[usual] == "60.0%, one run" and plain[large] == "–"


def test_plain_starts_are_told_with_the_error_of_conv2_the_best_first():
    row = MACHINE | {
        "claim": "cp-start", "max_degeneracy": None, "init": "svd", "n_iter_max": 100, "lr": 0.01,
        "balanced": True, "rel_error": [0.782, 0.847], "degeneracy": [20000.0, 1e6],
        "accuracy": [0.91, 0.88, 0.87, 0.7], "accuracy_finetuned": 0.7, "accuracy_baseline": 0.913,
        "test_size": 1510,
    }  # fmt: skip
    few = {"n_iter_max": 5, "rel_error": [0.794, 0.857], "degeneracy": [1.8, 2.0]}
    rows = [
        row, row | {"seed": 1, "accuracy_finetuned": 0.72},
        *(row | few | {"seed": seed, "accuracy_finetuned": 0.9} for seed in (0, 1)),
        row | {"max_degeneracy": 10.0},
    ]  # fmt: skip
    table = tables.plain_starts(rows)
    best, usual = lines(table)
    assert (best["steps"], best["relative error of conv2"]) == ("5", "0.794")
    assert usual["relative error of conv2"] == "0.782" and usual["degeneracy of conv2"] == "20,000"
    assert usual["both fine-tuned"] == "71.0% (70.0% to 72.0%)"
    assert "of 2 seeds; dense: 91.3%; 95% intervals up to ±2.3 points" in table.caption


def test_seeds_and_own_runs_have_a_line_each():
    rows = [run(0), run(1, finetuned=0.89), run(0, parameters=NLS | {"dataset": "characters"})]
    assert [line["fine-tuned"] for line in lines(tables.seeds(rows))] == ["90.0%", "89.0%"]
    unsure = tables.seeds([run(0, accuracy_finetuned_good=0.75)]).caption
    assert "up to ±1.6 points, on GoodImg alone (956) ±2.7 points" in unsure
    quick = run(0, claim="quickstart", notebook="00_quickstart", ranks=[64], bound=6.5)
    del quick["parameters"]  # a row from before they were recorded
    last, newest = lines(tables.own_runs([*rows, quick], most=2))
    assert (last["notebook"], newest["notebook"]) == ("04", "00")
    assert newest["speed-up over dense in PyTorch, and fewer multiplies"] == "5.0×, 6.5×"


@pytest.mark.parametrize("name", ["finetuning", "conv1_too", "learning_rates", "seeds", "own_runs"])
def test_without_rows_the_command_that_makes_them_is_told(name):
    ((told,),) = getattr(tables, name)([]).data.to_numpy()
    assert "nothing recorded yet" in told and ("-m cpnb sweep" in told or "make " in told)


@pytest.mark.parametrize(
    "name", ["finetuning", "conv1_too", "learning_rates", "plain_starts", "seeds"]
)
def test_the_committed_records_fill_a_narrow_table_without_raw_names(name):
    table = getattr(tables, name)()
    assert len(table.data) >= 3 and len(table.data.columns) <= 8
    assert not [h for h in table.data.columns if "_" in str(h)]
    assert max(sum(map(len, map(str, row))) for row in table.data.to_numpy()) <= 120


def test_a_live_table_shows_goodimg_only_where_it_differs():
    measured = {f"accuracy_{stage}": 0.9 for stage in ("baseline", "decomposed", "finetuned")}
    same = measured | {f"{key}_good": value for key, value in measured.items()}
    assert len(tables.accuracies(same).data) == 1
    assert len(tables.accuracies(same | {"accuracy_finetuned_good": 0.95}).data) == 2


# Points of a sweep


def test_points_of_a_sweep_come_from_its_table(tmp_path):
    for rank, name, finetuned in ((16, "1", 0.1), (16, "2", 0.88), (64, "3", 0.9)):
        given = NLS | {"rank_conv2": rank, "rank_conv3": 64}
        row = run(claim="point", parameters=given, finetuned=finetuned, ranks=[rank, 64])
        append(row | {"run": name, "output": f"n__{rank}.ipynb"}, tmp_path / "records.jsonl")
    point, other = sweeps.points(load(tmp_path))
    assert (point["label"], other["label"]) == ("16/64", "64/64") and point["bound"] == 9.64
    assert point["drop_before"] == pytest.approx(3) and point["drop_after"] == pytest.approx(3)
