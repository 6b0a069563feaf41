"""The recorded comparison of CP and its rivals on CharNet, drawn."""

from __future__ import annotations

from cpnb.study.commands import RIVALS
from cpnb.study.comparison import NAMES, compared
from cpnb.study.figures.accuracy import methods_compared
from cpnb.study.figures.style import nothing
from cpnb.study.selection import chosen
from cpnb.study.tables.rivals import conditions


def rivals(rows: list[dict] | None = None):
    """Accuracy drop against measured speed-up of all recorded nets, a line a method.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    points = compared(chosen(rows))
    if not points:
        return nothing(RIVALS)
    fig = methods_compared(points, NAMES)
    title = f"{len(points)} CharNets; {conditions(points, 'means')}"
    fig.suptitle(title.replace("; speeds", "\nspeeds"), fontsize=10)
    return fig
