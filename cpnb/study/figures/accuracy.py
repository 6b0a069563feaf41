"""Figures of data, training, and accuracy against speed."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from cpnb.data.distortions import PATCH
from cpnb.data.glyphs import CLASSES
from cpnb.study.commands import RANK_SWEEP
from cpnb.study.figures.labels import label_points
from cpnb.study.figures.style import BLACK, BLUE, CYCLE, GREEN, GREY, MARKERS, ORANGE, RED, nothing
from cpnb.study.machines import machine
from cpnb.study.selection import characters, main_sweep

SPEEDUP = "measured speed-up, over dense in PyTorch (×)"
DROP = "accuracy drop (points; above 2 logarithmic)"
BEFORE = {"ms": 6, "mfc": "none", "mew": 1.4}  # marks of nets before fine-tuning
PAPER = {
    "speedup": 8.5,
    "drop": 1.0,
    "label": "the paper: 8.5×, 91% → 90%,\nover which dense net is unknown",
}


def contact_sheets(sheets: dict, figsize=None):
    """Draw grey sheets (H, W), such as :func:`cpnb.contact_sheet` makes, one above the other.

    Above each column stands its class.
    """
    height = sum(s.shape[0] / s.shape[1] for s in sheets.values())
    figsize = figsize or (11, 11 * height + 0.45 * len(sheets))
    ratios = [s.shape[0] / s.shape[1] for s in sheets.values()]
    fig, axes = plt.subplots(
        len(sheets), 1, figsize=figsize, squeeze=False, gridspec_kw={"height_ratios": ratios}
    )
    for ax, (title, sheet) in zip(axes[:, 0], sheets.items(), strict=True):
        ax.imshow(sheet, cmap="gray", vmin=-2.5, vmax=2.5)
        ax.set_title(f"{title}; one column a class", loc="left", fontsize=11)
        names = CLASSES[: sheet.shape[1] // PATCH]
        ax.set_xticks([PATCH * (column + 0.5) - 0.5 for column in range(len(names))], names)
        ax.tick_params(length=0, pad=1, labeltop=True, labelbottom=False, labelsize=9)
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        ax.grid(False)
    return fig


def training_curves(history: list[dict]):
    """Loss and accuracy by epoch."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
    epochs = [row["epoch"] for row in history]
    for key, label, color in (("train_loss", "training", BLUE), ("val_loss", "validation", ORANGE)):
        left.plot(epochs, [row[key] for row in history], "o-", color=color, label=label)
    keys = (
        ("train_accuracy", "training (augmented)", BLUE),
        ("val_accuracy", "validation", ORANGE),
    )
    for key, label, color in keys:
        right.plot(epochs, [100 * row[key] for row in history], "o-", color=color, label=label)
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)")
    right.set(xlabel="epoch", ylabel="accuracy (%)")
    for ax in (left, right):
        ax.legend()
        ax.xaxis.get_major_locator().set_params(integer=True)
    return fig


def tradeoff(
    rows: list[dict] | None = None,
    title: str = "",
    paper: dict | None = PAPER,
    records: list[dict] | None = None,
):
    """Accuracy drop against measured speed-up, before and after fine-tuning.

    Parameters
    ----------
    rows : list of dict, optional
        Keys: speedup, bound (×), drop_before, drop_after (percentage points), label. By default the
        points of the largest sweep of ranks in `records`.
    title : str
    paper : dict, optional
        The paper's point: speedup, drop, label.
    records : list of dict, optional
        The committed records by default; they count only where no `rows` are given.
    """
    if rows is None:
        sweep = main_sweep(records)
        if sweep is None:
            return nothing(RANK_SWEEP)
        rows, title = sweep["points"], title or of_sweep(sweep)
    fig, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), width_ratios=[1.25, 1])
    rows = sorted(rows, key=lambda row: row["speedup"])
    for key, label, color, marker in (
        ("drop_before", "before fine-tuning", ORANGE, "s"),
        ("drop_after", "after fine-tuning", BLUE, "o"),
    ):
        left.plot(
            [r["speedup"] for r in rows], [r[key] for r in rows], marker, color=color, label=label
        )
    for row in rows:
        left.plot([row["speedup"]] * 2, [row["drop_after"], row["drop_before"]], color=GREY, lw=0.7)
    left.axhline(1, color=GREEN, lw=1, ls="--", label="1 point")
    if paper:
        left.plot(paper["speedup"], paper["drop"], "*", ms=15, color=RED, label=paper["label"])
    left.set_yscale("symlog", linthresh=2)
    ticks = [-1, 0, 1, 2, 5, 10, 20, 50]
    left.set_yticks(ticks, [str(t) for t in ticks])
    left.minorticks_off()
    lowest = min(0, *(row["drop_after"] for row in rows))
    highest = max(2, *(max(row["drop_before"], row["drop_after"]) for row in rows))
    left.set(
        xlabel=SPEEDUP,
        ylabel=DROP,
        ylim=(lowest - 0.9, 1.5 * highest),
    )
    left.legend(fontsize=9, loc="lower right")
    left.set_title("labels: ranks of conv2/conv3 where no net is better in both", fontsize=10)
    top = max(r["bound"] for r in rows) * 1.05
    right.plot([0, top], [0, top], color=BLACK, lw=1, ls=":", label="speed-up = ratio")
    right.plot([r["bound"] for r in rows], [r["speedup"] for r in rows], "o", color=BLUE)
    if paper:
        right.axhline(paper["speedup"], color=RED, lw=1, ls="--", label=paper["label"])
    right.set(
        xlabel="ratio of multiplies, dense over factored (×)",
        ylabel=SPEEDUP,
        xlim=(0, top),
        ylim=(0, None),
    )
    right.legend(fontsize=9)
    fig.suptitle(title)
    _label_front(left, rows)
    return fig


def _label_front(ax, rows: list[dict]) -> None:
    """Labels for the runs that no other beats in both: all would overlap."""
    points = [(row["speedup"], row["drop_after"]) for row in rows]
    front = [not any(x > u and y <= v for x, y in points) for u, v in points]
    labels = [row["label"] if first else "" for row, first in zip(rows, front, strict=True)]
    lines = [(r["speedup"], np.linspace(r["drop_after"], r["drop_before"], 40)) for r in rows]
    kept = [(x, y) for x, line in lines for y in line] + [
        (x, 1.0) for x in np.linspace(*ax.get_xlim(), 300)
    ]
    label_points(ax, points, labels, avoid=kept)


def of_sweep(run: dict) -> str:
    """Title of a recorded sweep: on which characters, of how many seeds, and where."""
    return f"CharNet on {characters(run)} characters, one seed, recorded on {machine(run)}"


def methods_compared(points: list[dict], names: dict, title: str = ""):
    """Accuracy drop after fine-tuning against measured speed-up: one line a method.

    Hollow markers show the same nets before fine-tuning.

    Parameters
    ----------
    points : list of dict
        Keys: method, speedup (×), drop_before, drop_after (percentage points).
    names : dict
        Method to its name in the legend, which also sets the order.
    """
    fig, ax = plt.subplots(figsize=(9, 5))
    for (method, name), color, marker in zip(names.items(), CYCLE, MARKERS, strict=False):
        own = sorted((p for p in points if p["method"] == method), key=lambda p: p["speedup"])
        if not own:
            continue
        x = [p["speedup"] for p in own]
        style = {"marker": marker, "color": color}
        ax.plot(x, [p["drop_after"] for p in own], ms=8, label=name, zorder=3, **style)
        before = [p["drop_before"] for p in own]
        ax.plot(x, before, ls="", **BEFORE, **style)
    ax.axhline(1, color=BLACK, lw=1, ls="--", label="1 point")
    ax.plot([], [], "o", color=GREY, **BEFORE, label="before fine-tuning")
    ax.set_yscale("symlog", linthresh=2)
    ticks = [-1, 0, 1, 2, 5, 10, 20, 50]
    ax.set_yticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    drops = [d for p in points for d in (p["drop_before"], p["drop_after"])]
    ax.set(
        xlabel=SPEEDUP,
        ylabel=DROP,
        ylim=(min(0, *drops) - 0.3, max(2, 1.3 * max(drops))),
        xlim=(0, None),
        title=title,
    )
    ax.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig
