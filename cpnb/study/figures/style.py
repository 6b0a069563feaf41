"""One look for all figures: a colour-blind-safe palette, and an axis for ranks."""

from __future__ import annotations

import matplotlib.pyplot as plt
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


def rank_axis(ax, ranks) -> None:
    """Label a log₂ axis with the ranks themselves."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(ranks))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda r, _: f"{r:g}"))
    ax.minorticks_off()
    ax.set_xlabel("rank R")
