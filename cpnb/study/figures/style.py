"""One look for all figures: a colour-blind-safe palette, and an axis for ranks."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cpnb.study.tables.layout import to_be_made

# Okabe and Ito's palette: told apart by readers with any kind of colour vision.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, RED, PINK, GREY = "#0072B2", "#D55E00", "#CC79A7", "#999999"
CYCLE = [BLUE, ORANGE, GREEN, RED, PINK, SKY, BLACK]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]


def use_style() -> None:
    """Set the notebooks' look: readable at half size, no frame on top and right, a light grid."""
    _tell_in_words()
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


def _tell_in_words() -> None:
    """In a notebook, keep a text beside each figure for those who do not see it (alt)."""
    from IPython import get_ipython  # here: figures are drawn without it, too

    shell = get_ipython()
    if shell is not None:
        plt.close(plt.figure())  # loads the backend, which sets a formatter of its own
        shell.display_formatter.formatters["image/png"].for_type(Figure, _png_and_words)


def _png_and_words(figure: Figure) -> tuple[str, dict]:
    from IPython.core.pylabtools import print_figure

    return print_figure(figure, "png", base64=True, bbox_inches="tight"), {"alt": in_words(figure)}


def in_words(figure: Figure) -> str:
    """What a figure shows: its titles, the axes with their units, and what is drawn in them."""
    told = figure.get_suptitle().splitlines()
    for ax in figure.axes:
        shown = ax.get_legend_handles_labels()[1]
        axes = [t for t in (ax.get_ylabel(), ax.get_xlabel()) if t]
        told += (ax.get_title() or ax.get_title(loc="left")).splitlines()
        told += [" against ".join(axes)] if axes else []
        told += [f"shown: {', '.join(shown)}"] if shown else []
    words = "; ".join(" ".join(text.split()) for text in dict.fromkeys(told) if text)
    return words or "a picture without axes"


def rank_axis(ax, ranks) -> None:
    """Label a log₂ axis with the ranks themselves."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(ranks))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda r, _: f"{r:g}"))
    ax.minorticks_off()
    ax.set_xlabel("rank R")


def nothing(command: str):
    """A figure that says what makes the missing records."""
    fig, ax = plt.subplots(figsize=(9, 0.6))
    ax.set_axis_off()
    ax.text(0, 0.5, to_be_made(command), fontsize=8, va="center", wrap=True)
    return fig
