"""Figures of measured speed beside what arithmetic and memory allow."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from cpnb.study.figures.style import BLACK, BLUE, CYCLE, GREY, MARKERS


def measured_beside_bound(rows: list[dict], title: str = ""):
    """Bars of measured speed-up beside the ratio of multiplies; rows: label, speedup, bound."""
    fig, ax = plt.subplots(figsize=(max(5.0, 1.3 * len(rows) + 2), 3.8))
    x = np.arange(len(rows))
    groups = (
        ("bound", "ratio of multiplies", GREY, -0.2),
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
        Net's name to what :func:`cpnb.inference.roofline.time_stages` returned; stages without
        arithmetic are left out.
    rates : cpnb.inference.roofline.Rates
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
