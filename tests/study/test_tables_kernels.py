"""Recorded decompositions of one layer: newest code at each rank, seeds together."""

from cpnb.study import tables

MACHINE = {"cpu": "Some CPU", "gpu": None, "device": "cpu", "threads": 2}


def fit(method, rank=64, seed=0, commit="new", **values):
    """An old row, all of it on one level."""
    row = {
        "claim": "layer-decomposition", "layer": "conv2", "dataset": "chars74k", "seed": seed,
        "test_size": 1510, "n_iter_max": 200, "commit": commit, "method": method, "rank": rank,
        "rel_error": 0.78, "degeneracy": 9.998, "seconds": 3.0, "accuracy_baseline": 0.913,
        "accuracy_decomposed": 0.911, "versions": {"torch": "2.15.0"},
    }  # fmt: skip
    return MACHINE | row | values


def lines(table):
    return table.data.to_dict("records")


def test_a_line_tells_error_degeneracy_and_both_accuracies():
    (line,) = lines(tables.decompositions(rows=[fit("nls-plain", degeneracy=51281.3)]))
    assert line == {
        "rank R": "64", "method": "NLS, plain (the paper's)", "relative error": "0.7800",
        "degeneracy": "51,281", "seconds": "3.0", "accuracy, replaced": "91.1%",
        "accuracy, dense": "91.3%", "test characters": "1,510 chars74k",
    }  # fmt: skip


def test_a_row_that_names_its_parameters_reads_alike():
    parameters = {"layer": "conv2", "dataset": "chars74k", "seed": 0, "methods": ["nls", "als"]}
    old = fit("nls")
    new = {k: v for k, v in old.items() if k not in parameters} | {"parameters": parameters}
    # cpnb.recorded lays parameters under the row's own values.
    read = new["parameters"] | new
    assert lines(tables.decompositions(rows=[read])) == lines(tables.decompositions(rows=[old]))


def test_seeds_stand_together_and_of_equal_runs_the_newest_counts():
    rows = [fit("nls", seed=s, rel_error=e) for s, e in ((0, 0.9), (0, 0.78), (1, 0.79), (2, 0.80))]
    (line,) = lines(tables.decompositions(rows=rows))
    assert line["relative error"] == "0.7900 (0.7800 to 0.8000)" and line["degeneracy"] == "10.0"


def test_the_newest_code_counts_at_each_rank():
    rows = [fit("nls", 16, commit="old"), fit("als", 16, commit="old")]
    rows += [fit("nls", commit="old", seed=1), fit("greedy", commit="old"), fit("als")]
    told = [(line["rank R"], line["method"]) for line in lines(tables.decompositions(rows=rows))]
    assert told == [("16", "NLS, bounded (≤ 10)"), ("16", "ALS"), ("64", "ALS")]


def test_layer_rank_and_data_set_choose():
    other = {"dataset": "characters", "test_size": 1000}
    rows = [fit("nls"), fit("als", 16), fit("als", layer="conv3"), fit("greedy", **other)]
    every = lines(tables.decompositions(rows=rows))
    assert [line["test characters"] for line in every] == [
        "1,510 chars74k", "1,510 chars74k", "1,000 characters",
    ]  # fmt: skip
    assert len(lines(tables.decompositions(rank=64, rows=rows))) == 2
    (line,) = lines(tables.decompositions(rank=64, dataset="chars74k", rows=rows))
    assert line["method"].startswith("NLS")
    (line,) = lines(tables.decompositions("conv3", rows=rows))
    assert line["method"] == "ALS"


def test_machine_and_versions_stand_above():
    caption = tables.decompositions(rows=[fit("nls", simd="AVX2")]).caption
    assert caption.startswith("conv2") and "Some CPU (AVX2), 2 threads; torch 2.15.0" in caption


def test_without_rows_the_command_is_told():
    told = repr(tables.decompositions("conv1", rows=[fit("nls")]))
    assert "cpnb sweep notebooks/03_decompose.ipynb" in told


def test_the_committed_records_fill_it():
    shown = tables.decompositions(rank=64, dataset="chars74k")
    assert list(shown.data["method"]) == list(tables.SOLVERS.values())
    assert len(shown.data.columns) <= 8


def test_a_page_shows_its_own_rows_alike():
    row = {"rank": 4, "method": "als", "rel_error": 0.9, "degeneracy": 1.0, "seconds": 0.2}
    (line,) = lines(tables.show([row | {"accuracy_decomposed": 0.5}], tables.FITS))
    assert line["method"] == "ALS" and line["accuracy"] == "50.0%"
