"""README's figure: accuracy lost against measured speed-up, of a small net and a modern one."""

from __future__ import annotations

from statistics import mean, median

import matplotlib.pyplot as plt

from cpnb.study.figures.style import BLACK, BLUE, ORANGE, RED
from cpnb.study.selection import chosen, lost, main_runs, newest, newest_code, optimised_charnets


def headline(rows: list[dict] | None = None):
    """CharNet after fine-tuning and ResNet-20 without training, both by `optimize_for_inference`.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    rows = chosen(rows)
    fig, ax = plt.subplots(figsize=(8, 4.2))
    sides = (
        ("CharNet, fine-tuned with labels (Chars74K)", BLUE, "o", _charnets(rows)),
        ("ResNet-20, no labels, no training (CIFAR-10, JPEG copy)", ORANGE, "s", _resnets(rows)),
    )
    for name, color, marker, points in sides:
        ax.plot(*zip(*points, strict=True), marker, color=color, ms=8, label=name)
    told = "the paper, CharNet: 8.5×, 91% → 90%; over which dense net is unknown"
    ax.plot(8.5, 1.0, "*", ms=14, color=RED, label=told)
    ax.axhline(0, color=BLACK, lw=1)
    ax.set(
        xlabel="measured speed-up on a CPU, over the fastest dense net of all runtimes (×)",
        ylabel="accuracy lost (points)", xlim=(0, None),
    )  # fmt: skip
    ax.legend(fontsize=10)
    return fig


def _charnets(rows: list[dict]) -> list[tuple[float, float]]:
    """Speed-up and points lost (mean of the seeds) of the nets that were timed and fine-tuned."""
    nets = []
    for ranks, timed in optimised_charnets(rows).items():
        if tuned := main_runs(rows, dict(ranks)):
            nets.append((median(r["speedup"] for r in newest_code(timed)), mean(map(lost, tuned))))
    return nets


def _resnets(rows: list[dict]) -> list[tuple[float, float]]:
    """The same of one net a factor."""
    own = chosen(rows, claim="alternatives", name="CP by the plan", net="resnet20")
    (dense,) = {r["accuracy"] for r in chosen(rows, claim="alternatives", name="dense")[-1:]}
    return [
        (r["speedup"], 100 * (dense - r["accuracy"])) for r in newest(newest_code(own), "factor")
    ]
