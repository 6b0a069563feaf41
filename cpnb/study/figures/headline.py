"""README's figure: accuracy lost against measured speed-up, of a small net and a modern one."""

from __future__ import annotations

import matplotlib.pyplot as plt

from cpnb.study.comparison import compared
from cpnb.study.figures.style import BLACK, BLUE, ORANGE, RED
from cpnb.study.selection import chosen, newest, newest_code


def headline(rows: list[dict] | None = None):
    """CharNet after fine-tuning and ResNet-20 without training, both by `optimize_for_inference`.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    rows = chosen(rows)
    charnet = [p for p in compared(rows) if p["method"] == "nls"]
    own = chosen(rows, claim="alternatives", name="CP by the plan", net="resnet20")
    resnet = newest(newest_code(own), "factor")
    dense = {r["accuracy"] for r in chosen(rows, claim="alternatives", name="dense")[-1:]}
    fig, ax = plt.subplots(figsize=(8, 4.2))
    sides = (
        ("CharNet, fine-tuned with labels (Chars74K)", BLUE, "o",
         [(p["speedup_optimised"], p["drop_after"]) for p in charnet]),
        ("ResNet-20, no labels, no training (CIFAR-10)", ORANGE, "s",
         [(r["speedup"], 100 * (max(dense) - r["accuracy"])) for r in resnet]),
    )  # fmt: skip
    for name, color, marker, points in sides:
        ax.plot(*zip(*sorted(points), strict=True), marker + "-", color=color, label=name)
    ax.plot(8.5, 1.0, "*", ms=14, color=RED, label="the paper, CharNet: 8.5×, 91% → 90%")
    ax.axhline(0, color=BLACK, lw=1)
    ax.set(
        xlabel="measured speed-up on a CPU (×)", ylabel="accuracy lost (points)", xlim=(0, None),
    )  # fmt: skip
    ax.legend(fontsize=10)
    return fig
