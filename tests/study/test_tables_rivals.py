"""The recorded comparison with the rivals: winners, like multiplies, and the verdict in words."""

import matplotlib.pyplot as plt
import pytest

from cpnb.study import comparison, figures, tables

MACHINE = {
    "cpu": "Some CPU", "simd": "AVX2", "gpu": None, "device": "cpu", "threads": 2, "commit": "new",
    "versions": {"torch": "2.15.0"},
}  # fmt: skip


def net(method, ranks, speedup, drops, multiplies=1000):
    """Both kinds of rows of a net: accuracies, one a seed, and latency."""
    shared = MACHINE | {"method": method, "ranks": ranks}
    accuracies = [
        shared
        | {
            "claim": "charnet-rivals", "dataset": "chars74k", "epochs": 6, "train_size": 8000,
            "test_size": 1510, "seed": seed, "accuracy_baseline": 0.91, "accuracy_decomposed": 0.89,
            "accuracy_finetuned": 0.91 - drop / 100, "accuracy_baseline_validation": 0.95,
            "accuracy_finetuned_validation": 0.95 - drop / 100,
        }
        for seed, drop in enumerate(drops)
    ]  # fmt: skip
    timed = {
        "claim": "charnet-rivals-latency", "batch": 64, "multiplies": multiplies, "bound": 10.0,
        "speedup": speedup, "speedup_optimised": 2 * speedup, "fused": True,
    }  # fmt: skip
    return [*accuracies, shared | timed]


ROWS = [
    *net("nls", [64, 64], 5.0, [0.8, 1.0]),
    *net("nls", [32, 32], 6.0, [1.6, 1.8], multiplies=600),
    *net("jaderberg-2", [11, 37], 4.0, [0.5, 0.5], multiplies=1049),
    *net("tucker", [[9, 23], [27, 84]], 4.5, [2.5, 2.5], multiplies=1051),
]


def column(table, heading: str) -> list[str]:
    return table.data[heading].tolist()


def test_the_solver_is_called_what_it_is():
    assert comparison.NAMES["nls"] == "CP, NLS (bounded)"


def test_each_limit_has_each_methods_fastest_net():
    table = tables.rivals_within(1.0, 2.0, rows=ROWS)
    names = ["CP, NLS (bounded)", "Jaderberg, scheme 2", "Tucker-2"]
    assert column(table, "within (points)") == ["1", "", "", "2", "", ""]
    assert column(table, "method") == names + names
    assert column(table, "ranks") == [
        "64, 64", "11, 37", "–", "32, 32", "11, 37", "–",
    ]  # fmt: skip
    assert column(table, "speed-up over dense in PyTorch") == [
        "5.0×", "4.0×", "–", "6.0×", "4.0×", "–",
    ]  # fmt: skip
    assert column(table, "drop, test")[0].split() == ["0.90", "±", "0.14"]
    assert "1,510 Chars74K characters" in table.caption and "2 seeds" in table.caption
    assert "64 patches at a time: Some CPU (AVX2), 2 threads" in table.caption


def test_nets_are_chosen_by_validation_and_told_on_test():
    """Of one seed told on validation, as the recorded run; a net never told there is not taken."""
    rows = net("nls", [64, 64], 5.0, [0.8, 1.6])
    rows[0]["accuracy_finetuned_validation"] = 0.95 - 0.9 / 100
    del rows[1]["accuracy_finetuned_validation"]
    untold = net("nls", [16, 16], 9.0, [0.0])
    del untold[0]["accuracy_finetuned_validation"]
    table = tables.rivals_within(1.0, rows=[*rows, *untold])
    assert column(table, "ranks") == ["64, 64"] and column(table, "drop, validation") == [
        "0.90,\xa0one\xa0seed"
    ]
    assert column(table, "drop, test")[0].split()[0] == "1.20"


def test_like_multiplies_are_within_a_twentieth():
    table = tables.rivals_at_like_multiplies([64, 64], ROWS)
    assert column(table, "method") == ["Jaderberg, scheme 2", "CP, NLS (bounded)"][::-1]
    assert column(table, "speed-up in % of fewer multiplies") == ["50%", "40%"]
    with pytest.raises(ValueError, match=r"ranks=\[1, 1\].*\[64, 64\], \[32, 32\]"):
        tables.rivals_at_like_multiplies([1, 1], ROWS)


def test_ranks_in_pairs_are_told():
    rows = [*ROWS, *net("tucker", [[9, 23], [27, 84]], 4.5, [0.1, 0.1])]
    table = tables.rivals_at_like_multiplies([64, 64], rows)
    assert column(table, "ranks")[-1] == "(9, 23), (27, 84)"


def test_one_seed_has_no_deviation():
    table = tables.rivals_within(1.0, rows=net("nls", [64, 64], 5.0, [0.25]))
    assert column(table, "drop, test") == ["0.25"]
    assert "one seed" in table.caption


@pytest.mark.parametrize("speedup,ahead", [(5.0, "ahead"), (3.9, "behind")])
def test_the_verdict_in_words(speedup, ahead):
    rows = [*net("nls", [64, 64], speedup, [0.8]), *ROWS[-6:]]
    told = tables.rivals_in_words([64, 64], rows).data
    assert f"bounded NLS is at {speedup}× and the best rival (Jaderberg, sch" in told
    assert f"at 4.0×: CP is {ahead}, {speedup / 4:.2f} (" in told and f"at {2 * speedup}×" in told
    order = ["CP, NLS (bounded): 5.0×", "Jaderberg, scheme 2: 4.0×"]
    assert ("; ".join(order) in told) == (speedup == 5.0)
    assert "Jaderberg, scheme 2: 0.5; CP, NLS (bounded): 0.8" in told


def test_no_verdict_where_a_side_loses_too_much():
    told = comparison.verdict(comparison.compared(ROWS[-3:]))
    assert told == "Not every side has a net within one point of the baseline."


def test_nothing_recorded_is_told():
    for table in (
        tables.rivals_within(1.0, rows=[]),
        tables.rivals_at_like_multiplies([64, 64], []),
        tables.rivals_in_words([64, 64], []).data,
    ):
        assert "this records it: .venv/bin/python benchmarks/rivals.py" in str(table)
    assert "nothing recorded yet" in figures.rivals([]).axes[0].texts[0].get_text()
    plt.close("all")


def test_the_committed_records_read_as_narrow_tables():
    for table in (
        tables.rivals_within(0.5, 1.0, 2.0),
        tables.rivals_at_like_multiplies([64, 64]),
    ):
        assert len(table.data.columns) <= 8 and set(comparison.NAMES.values()) == set(
            column(table, "method")
        )
        assert "3 seeds" in table.caption and "AMD EPYC" in table.caption
    assert "CP is" in tables.rivals_in_words([64, 64]).data


def test_the_figure_has_a_line_a_method_and_tells_where_it_was_timed():
    fig = figures.rivals(ROWS)
    title = fig.get_suptitle()
    assert title.startswith("4 CharNets; 1,510") and "Some CPU (AVX2)" in title
    labels = [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
    assert labels[:3] == ["CP, NLS (bounded)", "Jaderberg, scheme 2", "Tucker-2"]
    plt.close("all")


def test_live_nets_read_like_the_recorded_ones():
    live = {
        "method": "tucker", "ranks": ([9, 23], [27, 84]), "rel_error": (0.85, 0.799),
        "bound": 9.77, "speedup": 4.34, "drop_before": 6.5, "drop_after": 4.2,
    }  # fmt: skip
    (line,) = tables.show([live], tables.RIVAL_NETS).data.values.tolist()
    assert line == ["Tucker-2", "(9, 23), (27, 84)", "(0.85, 0.799)", "9.8×", "4.3×", "6.5", "4.2"]
