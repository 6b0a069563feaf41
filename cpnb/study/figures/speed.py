"""Figures of measured speed beside what arithmetic and memory allow."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from cpnb.study.figures.labels import label_points
from cpnb.study.figures.style import BLACK, BLUE, CYCLE, GREY, MARKERS


def measured_beside_bound(rows: list[dict], title: str = ""):
    """Bars of measured speed-up beside the ratio of multiplies; rows: label, speedup, bound."""
    fig, ax = plt.subplots(figsize=(max(5.0, 1.3 * len(rows) + 2), 3.8))
    x = np.arange(len(rows))
    groups = (
        ("bound", "ratio of multiplies", GREY, -0.2),
        ("speedup", "measured, both nets in PyTorch", BLUE, 0.2),
    )
    for key, label, color, shift in groups:
        values = [row[key] for row in rows]
        bars = ax.bar(x + shift, values, 0.38, color=color, label=label)
        ax.bar_label(bars, [f"{v:.1f}×" for v in values], fontsize=9)
    ax.axhline(1, color=BLACK, lw=1, ls=":", label="as fast as dense")
    ax.set_xticks(x, [row["label"] for row in rows])
    ax.set(ylabel="speed-up over the dense net (×)", title=title)
    ax.grid(axis="x", visible=False)
    ax.legend()
    return fig


def roofline(stages: dict, rates):
    """GFLOP/s of each stage against its operations a byte, under the machine's roof (log-log).

    One panel a net.

    Parameters
    ----------
    stages : dict of str to list of dict
        Net's name to what :func:`cpnb.inference.roofline.time_stages` returned; stages without
        arithmetic are left out.
    rates : cpnb.inference.roofline.Rates
    """
    fig, axes = plt.subplots(
        1, len(stages), figsize=(5.8 * len(stages), 4.8), sharex=True, sharey=True, squeeze=False
    )
    stages = {net: [r for r in rows if r["multiplies"]] for net, rows in stages.items()}
    intensities = [_intensity(row) for rows in stages.values() for row in rows]
    grid = np.geomspace(0.5 * min(intensities), 4 * max(intensities), 200)
    label = f"roof: {rates.gflops:.0f} GFLOP/s, {rates.gbytes:.0f} GB/s"
    for ax, (net, rows), color, marker in zip(
        axes[0], stages.items(), CYCLE, MARKERS, strict=False
    ):
        points = [(_intensity(row), 2 * row["multiplies"] / row["ms"] / 1e6) for row in rows]
        ax.plot(*zip(*points, strict=True), marker, color=color, ms=8)
        ax.plot(grid, rates.roof(grid), color=BLACK, lw=1.5, label=label)
        ax.set(xscale="log", yscale="log", xlabel="operations a byte moved (FLOP/B)", title=net)
    axes[0, 0].set_ylabel("rate reached (GFLOP/s)")
    axes[0, -1].legend(fontsize=9, loc="lower right")
    roof = list(zip(grid, rates.roof(grid), strict=True))
    for ax, rows in zip(axes[0], stages.values(), strict=True):
        points = [tuple(point) for point in ax.lines[0].get_xydata()]
        label_points(ax, points, [row["stage"] for row in rows], avoid=roof)
    return fig


def _intensity(stage: dict) -> float:
    return 2 * stage["multiplies"] / stage["bytes"]
