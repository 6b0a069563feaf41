"""Recorded figures of AlexNet's conv2, and of SqueezeNet.

Each takes the rows of records, by default the committed ones; without any it says what makes them.
"""

from __future__ import annotations

from statistics import mean

import matplotlib.pyplot as plt

from cpnb.study.commands import ALEXNET_KERNEL, ALEXNET_LATENCY, SQUEEZENET
from cpnb.study.figures.decomposition import lines_by_rank
from cpnb.study.figures.style import BLUE, CYCLE, MARKERS, nothing, rank_axis
from cpnb.study.selection import grouped
from cpnb.study.tables.alexnet import kernel_fits, layer_latencies, squeezed

IN_EACH_GROUP = "rank R in each group"


def alexnet_kernels(rows: list[dict] | None = None):
    """Relative error (left) and degeneracy (right) of conv2's kernel by rank: means over seeds."""
    runs = kernel_fits(rows)
    if not runs:
        return nothing(ALEXNET_KERNEL)
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6))
    for fits, color, marker in zip(grouped(runs, "fit"), CYCLE, MARKERS, strict=False):
        by_rank = grouped(fits, "R")
        # Bounded NLS is drawn wide: lines that coincide with it lie upon it.
        wide = fits[0]["method"] == "nls" and not fits[0]["block_diagonal"]
        for ax, key in ((left, "rel_error"), (right, "degeneracy")):
            ax.plot(
                [group[0]["R"] for group in by_rank],
                [mean(run[key] for run in group) for group in by_rank],
                marker=marker,
                color=color,
                label=fits[0]["fit"],
                lw=5 if wide else 1.5,
                ms=10 if wide else 5,
            )
    left.set_ylabel("relative error ‖K−K̂‖/‖K‖")
    right.set(yscale="log", ylabel="degeneracy Σ‖term‖²/‖K‖²")
    for ax in (left, right):
        rank_axis(ax, sorted({run["R"] for run in runs}))
        ax.set_xlabel(IN_EACH_GROUP)
    fig.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=9)
    return fig


def alexnet_speedups(rows: list[dict] | None = None):
    """Speed-up of the real conv2 by rank beside the ratio of multiplies; the largest batch."""
    runs = layer_latencies(rows)
    if not runs:
        return nothing(ALEXNET_LATENCY)
    batch = runs[-1]["batch"]  # sorted by it
    runs = [run for run in runs if run["batch"] == batch]
    series = {
        label: {run["rank"]: run[key] for run in runs}
        for key, label in (
            ("bound", "ratio of multiplies"),
            ("speedup_optimised", "optimised"),
            ("speedup", "four convolutions, one by one"),
        )
    }
    fig = lines_by_rank(series, f"speed-up of conv2 over dense\nin PyTorch (×), batch of {batch}")
    (ax,) = fig.axes
    ax.set(xlabel=IN_EACH_GROUP, ylim=(0, None))
    ax.legend(loc="upper right")
    ax.axhline(1, color="black", ls=":", lw=1)
    return fig


def squeezenet(rows: list[dict] | None = None):
    """Drop of SqueezeNet's top-5 accuracy on ImageNet's images, without fine-tuning, by method."""
    runs = [run for run in squeezed(rows)[::-1] if run["method"] != "dense"]
    if not runs:
        return nothing(SQUEEZENET)
    fig, ax = plt.subplots(figsize=(7, 0.45 * len(runs) + 1.1))
    names, drops = ([run[key] for run in runs] for key in ("name", "drop5"))
    bars = ax.barh(names, drops, color=BLUE, label=names)
    ax.bar_label(bars, [f"{run['drop5']:.1f}" for run in runs], padding=3)
    images = runs[-1]["test_size"]
    ax.set(xlabel=f"drop of top-5 accuracy (points), no fine-tuning, {images} images", ylabel="")
    ax.grid(axis="y", visible=False)
    return fig
