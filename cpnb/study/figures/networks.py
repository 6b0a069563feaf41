"""Figures of networks of one's own: what a rank costs, and which layers gain."""

from __future__ import annotations

import matplotlib.pyplot as plt

from cpnb.study.figures.style import BLACK, CYCLE, MARKERS


def error_curves(plan, most: int = 6):
    """Expected loss of outputs against multiplies saved: the highest curves and the lowest one.

    Parameters
    ----------
    plan : cpnb.Plan
    most : int
        Layers to draw, the lowest curve among them.
    """
    layers = {name: x for name, x in plan.layers.items() if x.curve}
    highest = sorted(layers, key=lambda n: -layers[n].loss(min(layers[n].curve)))
    picked = [*highest[: most - 1], *highest[most - 1 :][-1:]]
    fig, ax = plt.subplots(figsize=(7.5, 4.2))
    for name, color, marker in zip(picked, CYCLE, MARKERS, strict=False):
        layer = layers[name]
        ranks = sorted(layer.curve)
        rates = [layer.multiplies.dense / layer.multiplies(r) for r in ranks]
        ax.plot(rates, [layer.loss(r) for r in ranks], marker=marker, color=color, label=name)
    ax.set(
        xscale="log", yscale="log", xlabel="times fewer multiplies in the layer",
        ylabel="expected divergence of the outputs (nats)",
    )  # fmt: skip
    ticks = [1.5, 2, 3, 5, 8, 12]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    if len(picked) < len(layers):
        drawn = f"the {len(picked) - 1} highest and the lowest of {len(layers)} layers"
        ax.set_title(drawn, fontsize=10)
    ax.legend(fontsize=9, title="layer", bbox_to_anchor=(1.01, 1), loc="upper left")
    return fig


def when_it_pays(rows: list[dict], title: str = ""):
    """Measured speed-up of single layers, as heat by channels and map size, a panel a kernel."""
    kernels = sorted({row["kernel"] for row in rows})
    sizes, channels = (sorted({row[key] for row in rows}) for key in ("size", "channels"))
    fig, axes = plt.subplots(
        1, len(kernels), figsize=(3.3 * len(kernels) + 0.8, 3.4), squeeze=False, sharey=True
    )
    for ax, kernel in zip(axes[0], kernels, strict=True):
        found = {(r["size"], r["channels"]): r["speedup"] for r in rows if r["kernel"] == kernel}
        grid = [[found.get((s, c), float("nan")) for c in channels] for s in sizes]
        ax.imshow(grid, cmap="RdBu", vmin=0, vmax=2, aspect="auto", origin="lower")
        for i, line in enumerate(grid):
            for j, value in enumerate(line):
                color = "white" if abs(value - 1) > 0.7 else BLACK
                ax.text(j, i, f"{value:.1f}×", ha="center", va="center", color=color, fontsize=10)
        ax.set_xticks(range(len(channels)), channels)
        ax.set_yticks(range(len(sizes)), [f"{s}×{s}" for s in sizes])
        ax.set(xlabel="maps in and out", title=f"{kernel}×{kernel} kernel")
        ax.grid(visible=False)
    axes[0, 0].set_ylabel("size of the maps")
    fig.suptitle(title)
    return fig
