"""Which starts can be fine-tuned: accuracy against the degeneracy of the CP fit."""

from __future__ import annotations

import matplotlib.pyplot as plt

from cpnb.study.commands import BOUNDS
from cpnb.study.figures.alexnet import nothing
from cpnb.study.figures.style import BLACK, CYCLE, GREY, MARKERS
from cpnb.study.selection import chosen, grouped, newest_code


def starts(rows: list[dict] | None = None):
    """Accuracy after fine-tuning against the degeneracy of conv2's fit, a colour a learning rate.

    Each point is a run: a bound on degeneracy (or none), a learning rate and a seed.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    runs = newest_code(chosen(rows, claim="cp-start"))
    runs = [r for r in runs if r["init"] == "svd" and r["n_iter_max"] == 100 and r["balanced"]]
    if not runs:
        return nothing(BOUNDS)
    fig, ax = plt.subplots(figsize=(9, 4.6))
    rates = sorted({run["lr"] for run in runs})
    for rate, color, marker in zip(rates, CYCLE, MARKERS, strict=False):
        own = [run for run in runs if run["lr"] == rate]
        ax.plot(
            [run["degeneracy"][0] for run in own], [100 * run["accuracy_finetuned"] for run in own],
            marker, color=color, alpha=0.8, label=f"learning rate {rate:g}",
        )  # fmt: skip
    baseline = 100 * runs[0]["accuracy_baseline"]
    ax.axhline(baseline, color=BLACK, lw=1, ls="--", label="dense net")
    ax.axhline(baseline - 1, color=GREY, lw=1, ls=":", label="one point less")
    ax.set_xscale("log")
    ax.set(
        xlabel="degeneracy of conv2's fit, Σ‖term‖² / ‖K‖² (bounds, and at the right no bound)",
        ylabel="accuracy after fine-tuning (%)",
        ylim=(min(100 * r["accuracy_finetuned"] for r in runs) - 5, 96),
    )  # fmt: skip
    ax.legend(fontsize=9, loc="lower left")
    seeds = len(grouped(runs, "seed"))
    fig.suptitle(
        f"CharNet on Chars74K, ranks 64 and 64, one short epoch a layer, {seeds} seeds", fontsize=11
    )
    return fig
