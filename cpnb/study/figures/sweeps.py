"""The figure of a sweep: two parameters against what came out."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from cpnb.study.commands import RANK_SWEEP
from cpnb.study.figures.accuracy import of_sweep
from cpnb.study.figures.style import nothing
from cpnb.study.selection import main_sweep

LABELS = 12  # along an axis; of more values some go without
IN_FIELDS = 64  # fields that have room for their numbers


def over_two(points, across: str, up: str, figure: str, unit: str = ""):
    """Draw a figure of a sweep as fields of colour over two of its parameters.

    Parameters
    ----------
    points : pandas.DataFrame
        Points as :func:`cpnb.records.load` gives them; those without the figure stay empty. Where
        several share both parameters, as of other seeds, their mean is drawn.
    across, up : str
        Parameters on the axes, in order of their values.
    figure : str
        The column that is drawn.
    unit : str
        Its unit, for the label.

    Raises
    ------
    ValueError
        If the table has no such column, or none of its points has the figure.
    """
    for name in (across, up, figure):
        if name not in points.columns:
            raise ValueError(f"no column {name!r}; there are {', '.join(map(str, points.columns))}")
    known = points.dropna(subset=[figure])
    if known.empty:
        raise ValueError(f"no point has {figure!r} yet")
    grid = known.pivot_table(index=up, columns=across, values=figure, aggfunc="mean")
    fig, ax = plt.subplots(figsize=(6.5, 4.2))
    image = ax.imshow(grid.to_numpy(float), origin="lower", aspect="auto", cmap="cividis")
    ax.grid(False)
    for axis, name, values in ((ax.xaxis, across, grid.columns), (ax.yaxis, up, grid.index)):
        step = -(-len(values) // LABELS)
        axis.set_ticks(range(0, len(values), step), [f"{value}" for value in values[::step]])
        axis.set_label_text(name)
    fig.colorbar(image, label=f"{figure} ({unit})" if unit else figure)
    if grid.size <= IN_FIELDS:
        _write_in_fields(ax, grid.to_numpy(float))
    return fig


def drops_by_rank(rows: list[dict] | None = None):
    """Accuracy drop after fine-tuning over the ranks of conv2 and conv3, of the largest sweep.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    sweep = main_sweep(rows)
    if sweep is None:
        return nothing(RANK_SWEEP)
    points = pd.DataFrame(sweep["points"])
    names = ["rank of conv2", "rank of conv3"]
    points[names] = points["label"].str.split("/", expand=True).astype(int)
    drop = "accuracy drop after fine-tuning"
    fig = over_two(points.rename(columns={"drop_after": drop}), *names[::-1], drop, "points")
    fig.axes[0].set_title(of_sweep(sweep).replace(", recorded", "\nrecorded"), fontsize=10)
    return fig


def _write_in_fields(ax, values: np.ndarray) -> None:
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            color = "white" if value < middle else "black"
            ax.text(column, row, f"{value:.3g}", ha="center", va="center", color=color)
