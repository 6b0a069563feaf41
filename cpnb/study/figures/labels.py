"""Names beside points: where neither a point, nor a line, nor another name lies."""

from __future__ import annotations

from itertools import product

import numpy as np
from matplotlib.transforms import Bbox

RADII = (9, 18, 28, 40, 55, 70)  # points from the mark to its name; the nearest free place counts
ANGLES = np.deg2rad([0, -30, 30, -60, 60, -90, 90, 180, -150, 150, -120, 120])  # the right first
MARK = 5  # half a mark, points


def label_points(ax, points, labels, avoid=(), color="black", fontsize=9):
    """Write a label beside each point; a thin line leads to those that lie further away.

    Call it when the limits of the axes are set: places are found on the page.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    points : list of (float, float)
        In data units; a label avoids the marks of all of them.
    labels : list of str
        One a point; "" for none.
    avoid : list of (float, float)
        More places to keep free, such as those along a line.
    color : str
    fontsize : float
    """
    ax.figure.draw_without_rendering()  # so that the axes have their size
    unit = ax.figure.dpi / 72
    marks = ax.transData.transform(np.array(points, float))
    taken = [_around(mark, MARK * unit) for mark in marks]
    if len(avoid):
        taken += [_around(at, 2 * unit) for at in ax.transData.transform(np.array(avoid, float))]
    for k, (mark, label) in enumerate(zip(marks, labels, strict=True)):
        if not label:
            continue
        size = _size(ax, label, fontsize)
        others = taken[:k] + taken[k + 1 :]
        offset, box = min(
            _places(mark, size, unit), key=lambda place: _hits(ax, mark, *place, others, unit)
        )
        taken.append(box)
        lead = {"arrowstyle": "-", "lw": 0.6, "color": color, "shrinkA": 0}
        ax.annotate(
            label, points[k], xytext=offset, textcoords="offset points", va="center",
            ha=_side(offset), color=color, fontsize=fontsize,
            arrowprops=lead if np.hypot(*offset) > 1.01 * RADII[0] else None,
        )  # fmt: skip


def _around(at, half: float) -> Bbox:
    return Bbox.from_extents(*(at - half), *(at + half))


def _size(ax, label: str, fontsize: float):
    """Width and height of a label, pixels."""
    text = ax.text(0, 0, label, fontsize=fontsize)
    box = text.get_window_extent()
    text.remove()
    return np.array([box.width, box.height])


def _side(offset) -> str:
    return "center" if abs(offset[0]) < 1 else "left" if offset[0] > 0 else "right"


def _places(mark, size, unit: float):
    """Offsets (points), the nearest first, and the box (pixels) of the label there."""
    for radius, angle in product(RADII, ANGLES):
        offset = radius * np.array([np.cos(angle), np.sin(angle)])
        left = {"left": 0.0, "center": 0.5, "right": 1.0}[_side(offset)]
        low = mark + unit * offset - size * [left, 0.5]
        yield offset, Bbox.from_extents(*low, *(low + size))


def _hits(ax, mark, offset, box: Bbox, taken: list[Bbox], unit: float) -> int:
    """How much a label and the line that leads to it would lie over; the label counts most."""
    whole = np.hypot(*offset)
    line = mark + unit * offset * np.linspace(1.2 * MARK / whole, 1, 30)[:, None]
    low, high = np.array([(t.min, t.max) for t in taken]).reshape(-1, 2, 2).swapaxes(0, 1)
    under_label = ((low <= box.max) & (box.min <= high)).all(1)
    under_line = ((low <= line[:, None]) & (line[:, None] <= high)).all(2)
    over = 30 * int(under_label.sum()) + int(under_line.sum())
    inside = ax.bbox.contains(*box.min) and ax.bbox.contains(*box.max)
    return over + (0 if inside else 1000)
