"""The figures of the notebooks: one look, a colour-blind-safe palette, units on every axis."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FuncFormatter

# Okabe and Ito's palette: told apart by readers with any kind of colour vision.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, RED, PINK, GREY = "#0072B2", "#D55E00", "#CC79A7", "#999999"
CYCLE = [BLUE, ORANGE, GREEN, RED, PINK, SKY, BLACK]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]


def use_style() -> None:
    """Set the notebooks' look: readable at half size, no frame on top and right, a light grid."""
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "font.size": 11,
            "axes.prop_cycle": plt.cycler(color=CYCLE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "lines.linewidth": 2,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        }
    )


def contact_sheets(sheets: dict, figsize=None):
    """Draw grey sheets (H, W), such as :func:`cpnb.contact_sheet` makes, one above the other."""
    height = sum(s.shape[0] / s.shape[1] for s in sheets.values())
    figsize = figsize or (11, 11 * height + 0.45 * len(sheets))
    ratios = [s.shape[0] / s.shape[1] for s in sheets.values()]
    fig, axes = plt.subplots(
        len(sheets), 1, figsize=figsize, squeeze=False, gridspec_kw={"height_ratios": ratios}
    )
    for ax, (title, sheet) in zip(axes[:, 0], sheets.items(), strict=True):
        ax.imshow(sheet, cmap="gray", vmin=-2.5, vmax=2.5)
        ax.set_title(title, loc="left", fontsize=11)
        ax.set_axis_off()
    return fig


def factor_pictures(layer, count: int = 16):
    """Draw the spatial factors of the ``count`` largest terms of a CPConv2d.

    Rows: the d×1 and the 1×d filters, and their outer product, the d×d spatial kernel of the term.
    """
    ky = layer.vertical.weight.detach().flatten(1).cpu()  # (R, d)
    kx = layer.horizontal.weight.detach().flatten(1).cpu()
    order = (ky.norm(dim=1) * kx.norm(dim=1)).argsort(descending=True)[:count]
    fig, axes = plt.subplots(2, len(order), figsize=(11, 2.0), height_ratios=[1, 1])
    for column, r in enumerate(order.tolist()):
        axes[0, column].plot(ky[r], color=BLUE, lw=1.2)
        axes[0, column].plot(kx[r], color=ORANGE, lw=1.2)
        axes[0, column].axhline(0, color=GREY, lw=0.7)
        spatial = ky[r][:, None] * kx[r][None, :]
        peak = float(spatial.abs().max())
        axes[1, column].imshow(spatial, cmap="RdBu_r", vmin=-peak, vmax=peak)
        for ax in axes[:, column]:
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
    axes[0, 0].set_ylabel("weights\nvertical (blue),\nhorizontal", fontsize=8)
    axes[1, 0].set_ylabel("product\nd×d", fontsize=8)
    fig.suptitle(
        f"The spatial factors of the {len(order)} largest of {layer.rank} terms", fontsize=11
    )
    return fig


def solver_curves(results: dict, against: str = "seconds"):
    """Relative error (left) and degeneracy (right) of CP results, against seconds or iterations."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for (name, cp), color in zip(results.items(), CYCLE, strict=False):
        x = (
            [h.seconds for h in cp.history]
            if against == "seconds"
            else range(1, len(cp.history) + 1)
        )
        left.plot(x, [h.rel_error for h in cp.history], color=color, label=name)
        right.plot(x, [h.degeneracy for h in cp.history], color=color, label=name)
    left.set_ylabel("relative error ‖K−K̂‖/‖K‖")
    right.set_ylabel("degeneracy Σ‖term‖²/‖K‖²")
    for ax in (left, right):
        ax.set(xscale="log", xlabel="seconds" if against == "seconds" else "iteration")
        low, high = ax.dataLim.intervaly
        if high > 10 * low:  # within one decade a log scale has no readable ticks
            ax.set_yscale("log")
    right.legend()
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


def lines_by_rank(series: dict, ylabel: str, logy: bool = False, percent: bool = False):
    """Draw ``{label: {rank: value}}`` against the rank, on a log scale to base 2."""
    fig, ax = plt.subplots(figsize=(6.5, 4))
    for (label, points), color, marker in zip(series.items(), CYCLE, MARKERS, strict=False):
        ranks = sorted(points)
        factor = 100 if percent else 1
        ax.plot(ranks, [factor * points[r] for r in ranks], marker=marker, color=color, label=label)
    rank_axis(ax, sorted({r for points in series.values() for r in points}))
    ax.set_ylabel(ylabel)
    if logy:
        ax.set_yscale("log")
    ax.legend()
    return fig


def rank_axis(ax, ranks) -> None:
    """Label a log₂ axis with the ranks themselves."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(ranks))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda r, _: f"{r:g}"))
    ax.minorticks_off()
    ax.set_xlabel("rank R")


def measured_beside_bound(rows: list[dict], title: str = ""):
    """Bars of measured speed-up beside its arithmetic bound; rows: label, speedup, bound."""
    fig, ax = plt.subplots(figsize=(max(5.0, 1.3 * len(rows) + 2), 3.8))
    x = np.arange(len(rows))
    groups = (
        ("bound", "bound (ratio of multiplies)", GREY, -0.2),
        ("speedup", "measured", BLUE, 0.2),
    )
    for key, label, color, shift in groups:
        values = [row[key] for row in rows]
        bars = ax.bar(x + shift, values, 0.38, color=color, label=label)
        ax.bar_label(bars, [f"{v:.1f}×" for v in values], fontsize=9)
    ax.axhline(1, color=BLACK, lw=1, ls=":")
    ax.set_xticks(x, [row["label"] for row in rows])
    ax.set(ylabel="speed-up over the dense net (×)", title=title)
    ax.grid(axis="x", visible=False)
    ax.legend()
    return fig


def roofline(stages: dict, rates):
    """GFLOP/s of each stage against its operations a byte, under the machine's roof (log-log).

    Parameters
    ----------
    stages : dict of str to list of dict
        Net's name to what :func:`cpnb.roofline.time_stages` returned; stages without arithmetic
        are left out.
    rates : cpnb.roofline.Rates
    """
    fig, ax = plt.subplots(figsize=(8, 4.6))
    most, labels = 1, []
    for (net, rows), color, marker in zip(stages.items(), CYCLE, MARKERS, strict=False):
        rows = [row for row in rows if row["multiplies"]]
        x = [2 * row["multiplies"] / row["bytes"] for row in rows]
        y = [2 * row["multiplies"] / row["ms"] / 1e6 for row in rows]
        ax.plot(x, y, marker, color=color, label=net, ms=8)
        most = max(most, *x)
        for row, *point in zip(rows, x, y, strict=True):
            # Stages of a kind lie close together: each label a line below the last one near it.
            at = np.log10(point) + (0.06, 0.0)
            while any(abs(at[0] - u) < 0.75 and abs(at[1] - v) < 0.1 for u, v in labels):
                at[1] -= 0.02
            labels.append(at)
            ax.annotate(
                row["stage"], point, xytext=10**at, fontsize=8, color=color, va="center",
                arrowprops={"arrowstyle": "-", "lw": 0.5, "color": color},
            )  # fmt: skip
    grid = np.geomspace(0.05, 4 * most, 200)
    label = f"roof: {rates.gflops:.0f} GFLOP/s, {rates.gbytes:.0f} GB/s"
    ax.plot(grid, rates.roof(grid), color=BLACK, lw=1.5, label=label)
    ax.set(
        xscale="log", yscale="log", xlabel="operations a byte moved (FLOP/B)",
        ylabel="rate reached (GFLOP/s)",
    )  # fmt: skip
    ax.legend(fontsize=9, loc="lower right")
    return fig


def tradeoff(rows: list[dict], title: str, paper: dict | None = None):
    """Accuracy drop against measured speed-up, before and after fine-tuning.

    Parameters
    ----------
    rows : list of dict
        Keys: speedup, bound (×), drop_before, drop_after (percentage points), label.
    paper : dict, optional
        The paper's point: speedup, drop, label.
    """
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
        # Labels for the front alone, the runs that no other beats in both: all would overlap.
        if not any(
            r["speedup"] > row["speedup"] and r["drop_after"] <= row["drop_after"] for r in rows
        ):
            place = (row["speedup"], row["drop_after"])
            left.annotate(
                row["label"], place, xytext=(6, -4), textcoords="offset points", fontsize=9
            )
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
        xlabel="measured speed-up of the whole net (×)",
        ylabel="accuracy drop (points)",
        ylim=(lowest - 0.3, 1.5 * highest),
    )
    left.legend(fontsize=9, loc="lower right")
    top = max(r["bound"] for r in rows) * 1.05
    right.plot([0, top], [0, top], color=BLACK, lw=1, ls=":", label="measured = bound")
    right.plot([r["bound"] for r in rows], [r["speedup"] for r in rows], "o", color=BLUE)
    if paper:
        right.axhline(paper["speedup"], color=RED, lw=1, ls="--", label=paper["label"])
    right.set(
        xlabel="bound: ratio of multiplies (×)", ylabel="measured speed-up (×)", ylim=(0, None)
    )
    right.legend(fontsize=9)
    fig.suptitle(title)
    return fig


def methods_compared(points: list[dict], names: dict, title: str = ""):
    """Accuracy drop after fine-tuning against measured speed-up: one line a method.

    Thin, hollow markers show the same nets before fine-tuning.

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
        ax.plot(x, [p["drop_after"] for p in own], ms=7, label=name, zorder=3, **style)
        before = [p["drop_before"] for p in own]
        ax.plot(x, before, ls="", ms=5, mfc="none", mew=0.8, alpha=0.7, **style)
    ax.axhline(1, color=BLACK, lw=1, ls="--", label="1 point")
    ax.plot([], [], "o", color=GREY, ms=5, mfc="none", mew=0.8, label="before fine-tuning")
    ax.set_yscale("symlog", linthresh=2)
    ticks = [-1, 0, 1, 2, 5, 10, 20, 50]
    ax.set_yticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    drops = [d for p in points for d in (p["drop_before"], p["drop_after"])]
    ax.set(
        xlabel="measured speed-up of the whole net (×)",
        ylabel="accuracy drop (points)",
        ylim=(min(0, *drops) - 0.3, max(2, 1.3 * max(drops))),
        xlim=(0, None),
        title=title,
    )
    ax.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig
