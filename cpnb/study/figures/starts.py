"""Which starts can be fine-tuned: accuracy against the degeneracy of the CP fit."""

from __future__ import annotations

import matplotlib.pyplot as plt

from cpnb.study.commands import BOUNDS
from cpnb.study.figures.style import BLACK, CYCLE, GREY, MARKERS, nothing
from cpnb.study.selection import chosen, grouped, newest_code

APART = 0.16  # between the learning rates at one bound; bounds are 1 apart


def starts(rows: list[dict] | None = None):
    """Accuracy after fine-tuning: by the bound on degeneracy (left), and without one (right).

    Each point is a run: a bound on degeneracy (or none), a learning rate and a seed. A colour is a
    learning rate. The panels differ in scale, so that a point of accuracy can be read at the left.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    runs = newest_code(chosen(rows, claim="cp-start"))
    runs = [r for r in runs if r["init"] == "svd" and r["n_iter_max"] == 100 and r["balanced"]]
    if not runs:
        return nothing(BOUNDS)
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=[3, 2])
    bounds = sorted({run["max_degeneracy"] for run in runs if run["max_degeneracy"]})
    rates = sorted({run["lr"] for run in runs})
    beside = sorted({run["lr"] for run in runs if run["max_degeneracy"]})
    for rate, color, marker in zip(rates, CYCLE, MARKERS, strict=False):
        style = {"marker": marker, "color": color, "ls": "", "alpha": 0.8}
        label = f"learning rate {rate:g}"
        own = [run for run in runs if run["lr"] == rate]
        bounded = [run for run in own if run["max_degeneracy"]]
        plain = [run for run in own if not run["max_degeneracy"]]
        if bounded:
            aside = APART * (beside.index(rate) - (len(beside) - 1) / 2)
            places = [bounds.index(run["max_degeneracy"]) + aside for run in bounded]
            left.plot(places, [_accuracy(run) for run in bounded], **style)
        places = [run["degeneracy"][0] for run in plain]
        right.plot(places, [_accuracy(run) for run in plain], label=label, **style)
    baseline = 100 * runs[0]["accuracy_baseline"]
    for ax in (left, right):
        ax.axhline(baseline, color=BLACK, lw=1, ls="--", label="dense net")
        ax.axhline(baseline - 1, color=GREY, lw=1, ls=":", label="one point less")
        ax.set_ylabel("accuracy after fine-tuning (%)")
    left.set_xticks(range(len(bounds)), [f"{bound:g}" for bound in bounds])
    left.set(title="bounded NLS", xlabel="bound on the degeneracy Σ‖term‖² / ‖K‖² of each fit")
    left.grid(axis="x", visible=False)
    for between in range(1, len(bounds)):
        left.axvline(between - 0.5, color=GREY, lw=0.5)
    right.set(
        title="plain NLS, another scale",
        xscale="log",
        xlabel="degeneracy of conv2's fit, one for each seed",
    )
    fig.legend(*right.get_legend_handles_labels(), fontsize=9, loc="outside lower center", ncols=6)
    seeds = len(grouped(runs, "seed"))
    fig.suptitle(
        f"CharNet on Chars74K, ranks 64 and 64, one short epoch a layer, {seeds} seeds", fontsize=11
    )
    return fig


def _accuracy(run: dict) -> float:
    return 100 * run["accuracy_finetuned"]
