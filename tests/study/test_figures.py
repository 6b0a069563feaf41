"""Figures: labelled axes with units, and the right numbers in them."""

import matplotlib
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.text import Text
from torch import nn

import cpnb
from cpnb.study import figures
from cpnb.study.figures.labels import label_points
from cpnb.study.figures.style import in_words


@pytest.fixture(autouse=True)
def no_window():
    matplotlib.use("Agg")
    figures.use_style()
    yield
    plt.close("all")


def test_solver_curves_have_units_and_one_line_a_solver():
    tensor = torch.randn(3, 4, 5)
    fig = figures.solver_curves({"one": cpnb.cp_nls(tensor, 2), "two": cpnb.cp_als(tensor, 2)})
    left, right = fig.axes
    assert len(left.lines) == len(right.lines) == 2
    assert left.get_xlabel() == "seconds" and "‖K−K̂‖" in left.get_ylabel()
    assert [t.get_text() for t in right.get_legend().get_texts()] == ["one", "two"]


def test_tradeoff_shows_every_run_before_and_after_and_the_papers_point():
    rows = [
        {"label": "64/64", "speedup": 5.0, "bound": 9.6, "drop_before": 30.0, "drop_after": 0.5},
        {"label": "16/16", "speedup": 6.0, "bound": 13.0, "drop_before": 60.0, "drop_after": 3.0},
    ]
    paper = {"speedup": 8.5, "drop": 1.0, "label": "the paper"}
    left, right = figures.tradeoff(rows, "title", paper).axes
    before, after = left.lines[0], left.lines[1]
    assert list(before.get_xdata()) == [5.0, 6.0] and list(before.get_ydata()) == [30.0, 60.0]
    assert list(after.get_ydata()) == [0.5, 3.0]
    assert "points" in left.get_ylabel() and "×" in left.get_xlabel()
    assert "the paper" in [t.get_text() for t in left.get_legend().get_texts()]


def test_tradeoff_labels_the_nets_that_no_other_beats_in_both_and_says_so():
    rows = [
        {"label": "16/16", "speedup": 6.0, "bound": 13.0, "drop_before": 60.0, "drop_after": 3.0},
        {"label": "16/32", "speedup": 5.9, "bound": 12.0, "drop_before": 50.0, "drop_after": 2.9},
        {"label": "64/16", "speedup": 5.0, "bound": 9.6, "drop_before": 50.0, "drop_after": 4.0},
    ]
    left = figures.tradeoff(rows, paper=None).axes[0]
    assert {t.get_text() for t in left.texts} == {"16/16", "16/32"}
    assert "no net is better in both" in left.get_title()
    assert "over dense in PyTorch" in left.get_xlabel()


def test_labels_keep_clear_of_marks_and_of_one_another():
    ax = plt.subplots()[1]
    points = [(0.5, 0.5), (0.505, 0.5), (0.5, 0.51)]
    ax.plot(*zip(*points, strict=True), "o")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    label_points(ax, points, ["one", "another", "a third"])
    ax.figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in ax.texts]  # without the lines that lead there
    for k, box in enumerate(boxes):
        assert not any(box.contains(*mark) for mark in ax.transData.transform(points))
        assert not any(box.overlaps(other) for other in boxes[:k])


POINT = {"label": "64/64", "speedup": 5.0, "bound": 9.6, "drop_before": 3.0, "drop_after": 0.5}
SWEEP = {
    "claim": "rank-sweep", "dataset": "characters", "device": "cpu", "cpu": "Some CPU",
    "threads": 2, "points": [POINT],
}  # fmt: skip


def test_tradeoff_without_points_draws_the_largest_recorded_sweep_and_the_papers_point():
    """Of two that are as large the newest; a small one, as `make replicate` leaves, is none."""
    larger = SWEEP | {"points": [POINT] * 2}
    newest = larger | {"dataset": "chars74k", "points": [POINT | {"speedup": 7.0}] * 2}
    fig = figures.tradeoff(records=[larger, newest, SWEEP])
    left, _ = fig.axes
    assert list(left.lines[0].get_xdata()) == [7.0, 7.0]
    assert any("the paper" in t.get_text() for t in left.get_legend().get_texts())
    assert "Chars74K characters, one seed, recorded on Some CPU, 2 threads" in fig.get_suptitle()
    assert len(figures.tradeoff().axes) == 2  # of the committed records


def test_drops_of_the_recorded_sweep_are_drawn_over_its_ranks():
    rows = [SWEEP | {"points": [POINT, POINT | {"label": "64/128", "drop_after": 3.1}]}]
    ax = figures.drops_by_rank(rows).axes[0]
    assert ax.images[0].get_array().tolist() == [[0.5, 3.1]]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("rank of conv3", "rank of conv2")
    assert len(figures.drops_by_rank().axes) == 2  # of the committed records
    (ax,) = figures.drops_by_rank([]).axes
    assert "06_rank_sweep.ipynb" in ax.texts[0].get_text()


def test_tradeoff_without_a_recorded_sweep_says_what_makes_one():
    (ax,) = figures.tradeoff(records=[]).axes
    assert "06_rank_sweep.ipynb" in ax.texts[0].get_text()


def test_methods_are_compared_by_a_line_each_and_hollow_markers_before_fine_tuning():
    points = [
        {"method": "b", "speedup": 5.0, "drop_before": 30.0, "drop_after": 0.5},
        {"method": "b", "speedup": 3.0, "drop_before": 9.0, "drop_after": -0.1},
        {"method": "a", "speedup": 4.0, "drop_before": 20.0, "drop_after": 2.0},
    ]
    ax = figures.methods_compared(points, {"a": "A", "b": "B", "c": "C"}).axes[0]
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert labels == ["A", "B", "1 point", "before fine-tuning"]
    after, before = ax.lines[2], ax.lines[3]
    assert list(after.get_xdata()) == [3.0, 5.0] and list(after.get_ydata()) == [-0.1, 0.5]
    assert list(before.get_ydata()) == [9.0, 30.0] and before.get_markerfacecolor() == "none"
    assert "points" in ax.get_ylabel() and "×" in ax.get_xlabel()
    assert ax.get_ylim()[0] < -0.1 and ax.get_ylim()[1] > 30


def test_bars_are_labelled_with_their_values():
    ax = figures.measured_beside_bound([{"label": "net", "bound": 9.64, "speedup": 5.21}]).axes[0]
    assert {"9.6×", "5.2×"} <= {t.get_text() for t in ax.texts}


def test_lines_by_rank_sorts_and_names_the_ranks():
    ax = figures.lines_by_rank({"nls": {64: 0.7, 16: 0.9}}, "error").axes[0]
    assert list(ax.lines[0].get_xdata()) == [16, 64]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["16", "64"]


def test_lines_that_coincide_are_both_seen():
    same = {16: 0.9, 64: 0.7}
    ax = figures.lines_by_rank({"bounded": same, "plain": same}, "error").axes[0]
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"]


def test_factor_pictures_draw_each_term():
    layer = cpnb.CPConv2d.from_conv(nn.Conv2d(2, 3, 5), 4)
    assert len(figures.factor_pictures(layer, count=3).axes) == 6


def test_contact_sheets_are_titled_and_name_the_class_of_each_column():
    sheets = {"drawn": torch.zeros(48, 36 * 24), "real": torch.zeros(24, 96)}
    drawn, real = figures.contact_sheets(sheets).axes
    assert drawn.get_title(loc="left").startswith("drawn; ")
    assert real.get_title(loc="left").startswith("real; ")
    names = [tick.get_text() for tick in drawn.get_xticklabels()]
    assert "".join(names) == "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert list(real.get_xticks()) == [11.5, 35.5, 59.5, 83.5]


START = {
    "claim": "cp-start", "commit": "c", "init": "svd", "n_iter_max": 100, "balanced": True,
    "lr": 0.01, "seed": 0, "accuracy_baseline": 0.91,
}  # fmt: skip


def test_starts_with_a_bound_stand_on_a_finer_scale_than_those_without():
    bounded = {"max_degeneracy": 10.0, "degeneracy": [10.0, 10.0], "accuracy_finetuned": 0.9}
    plain = {"max_degeneracy": None, "degeneracy": [2e4, 1e5], "accuracy_finetuned": 0.5}
    rows = [
        START | bounded, START | bounded | {"max_degeneracy": 1.0, "lr": 0.05}, START | plain,
        START | plain | {"lr": 0.001}, START | plain | {"n_iter_max": 5},
    ]  # fmt: skip
    left, right = figures.starts(rows).axes
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["1", "10"]
    assert min(left.get_ylim()) > 85 > 50 > min(right.get_ylim())
    plotted = [line for line in right.lines if line.get_marker() != "None"]
    assert [list(line.get_xdata()) for line in plotted] == [[2e4], [2e4], []]
    labels = [t.get_text() for t in right.figure.legends[0].get_texts()]
    assert labels[0] == "learning rate 0.001" and labels[-2:] == ["dense net", "one point less"]


def test_starts_without_records_say_what_makes_them():
    (ax,) = figures.starts([]).axes
    assert "bench_starts" in ax.texts[0].get_text() or "make" in ax.texts[0].get_text()


def test_lines_of_a_title_are_told_apart_in_words():
    fig, ax = plt.subplots()
    ax.set(title="means of 3 seeds\nspeeds, 64 patches", xlabel="speed-up\n(×)", ylabel="drop")
    told = in_words(fig)
    assert told == "means of 3 seeds; speeds, 64 patches; drop against speed-up (×)"
