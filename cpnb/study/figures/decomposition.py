"""Figures of kernels and their decompositions."""

from __future__ import annotations

from itertools import cycle

import matplotlib.pyplot as plt

from cpnb.study.figures.style import BLUE, CYCLE, GREY, MARKERS, ORANGE, rank_axis

DASHES = ["-", "--"]  # in turns: of two lines that coincide, both are seen


def factor_pictures(layer, count: int = 16):
    """Draw the spatial factors of the ``count`` largest terms of a CPConv2d.

    Rows: the d×1 and the 1×d filters, and their outer product, the d×d spatial kernel of the term.
    """
    ky = layer.vertical.weight.detach().flatten(1).cpu()  # (R, d)
    kx = layer.horizontal.weight.detach().flatten(1).cpu()
    order = (ky.norm(dim=1) * kx.norm(dim=1)).argsort(descending=True)[:count]
    fig, axes = plt.subplots(2, len(order), figsize=(11, 2.4), height_ratios=[1, 1])
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
    axes[0, 0].set_ylabel("weights\nvertical (blue),\nhorizontal (orange)", fontsize=8)
    axes[0, 0].set_xlabel(f"position 1–{ky.shape[1]}", fontsize=8)
    axes[1, 0].set_ylabel("product\nd×d", fontsize=8)
    fig.suptitle(
        f"The spatial factors of the {len(order)} largest of {layer.rank} terms", fontsize=11
    )
    return fig


def solver_curves(results: dict, against: str = "seconds", of: str = "K"):
    """Relative error (left) and degeneracy (right) of CP results, against seconds or iterations.

    ``of`` is the tensor's letter.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for (name, cp), color, ls in zip(results.items(), CYCLE, cycle(DASHES), strict=False):
        x = (
            [h.seconds for h in cp.history]
            if against == "seconds"
            else range(1, len(cp.history) + 1)
        )
        style = {"color": color, "ls": ls, "label": name}
        left.plot(x, [h.rel_error for h in cp.history], **style)
        right.plot(x, [h.degeneracy for h in cp.history], **style)
    left.set_ylabel(f"relative error ‖{of}−{of}\N{COMBINING CIRCUMFLEX ACCENT}‖/‖{of}‖")
    right.set_ylabel(f"degeneracy Σ‖term‖²/‖{of}‖²")
    for ax in (left, right):
        ax.set(xscale="log", xlabel="seconds" if against == "seconds" else "iteration")
        low, high = ax.dataLim.intervaly
        if high > 10 * low:  # within one decade a log scale has no readable ticks
            ax.set_yscale("log")
    right.legend()
    return fig


def lines_by_rank(series: dict, ylabel: str, logy: bool = False, percent: bool = False):
    """Draw ``{label: {rank: value}}`` against the rank, on a log scale to base 2."""
    fig, ax = plt.subplots(figsize=(6.5, 4))
    styles = zip(CYCLE, MARKERS, cycle(DASHES), strict=False)
    for (label, points), (color, marker, ls) in zip(series.items(), styles, strict=False):
        ranks = sorted(points)
        values = [(100 if percent else 1) * points[r] for r in ranks]
        ax.plot(ranks, values, ls=ls, marker=marker, color=color, label=label)
    rank_axis(ax, sorted({r for points in series.values() for r in points}))
    ax.set_ylabel(ylabel)
    if logy:
        ax.set_yscale("log")
    ax.legend()
    return fig
