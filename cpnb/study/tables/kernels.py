"""One layer decomposed, by rank and method: error of the kernel, and the accuracy that is left."""

from __future__ import annotations

from cpnb.study.commands import RUN_03
from cpnb.study.intervals import sureness
from cpnb.study.machines import hardware
from cpnb.study.selection import chosen, grouped, newest, newest_code
from cpnb.study.tables.layout import Table, percent, rounded, show, to_be_made, together

SOLVERS = {
    "nls": "NLS, bounded (≤ 10)",
    "nls-plain": "NLS, plain (the paper's)",
    "als": "ALS",
    "greedy": "greedy, term by term",
}
FITS = {
    "rank": ("rank R", "{}"),
    "method": ("method", lambda name: SOLVERS.get(name, name)),
    "rel_error": ("relative error", "{:.4f}"),
    "degeneracy": ("degeneracy", rounded),
    "seconds": ("seconds", "{:.1f}"),
    "accuracy_decomposed": ("accuracy", percent),
}  # of a row that 03 writes


def decompositions(
    layer: str = "conv2",
    rank: int | None = None,
    dataset: str | None = None,
    rows: list[dict] | None = None,
) -> Table:
    """Recorded decompositions of one layer of CharNet; the net is not fine-tuned after it.

    Parameters
    ----------
    layer : str
    rank, dataset : optional
        Of this rank alone, measured on this data set alone.
    rows : list of dict, optional
        Records; the committed ones by default. At each rank those of the newest code count, and of
        equal runs the newest; seeds stand together.
    """
    given = {"rank": rank, "dataset": dataset}
    wanted = {key: value for key, value in given.items() if value is not None}
    rows = chosen(rows, claim="layer-decomposition", layer=layer, **wanted)
    rows = newest(newest_code(rows, "dataset", "rank"), "dataset", "rank", "method", "seed")
    columns = FITS | {
        "accuracy_decomposed": ("accuracy, replaced", percent),
        "accuracy_baseline": ("accuracy, dense", percent),
        "on": ("test characters", "{}"),
    }
    lines = []
    for runs in grouped(rows, "dataset", "rank", "method"):
        measured = together(runs, *columns.keys() - {"rank", "method", "on"})
        on = f"{runs[0]['test_size']:,} {runs[0]['dataset']}"
        lines.append(runs[0] | measured | {"on": on})
    sure = sureness(rows, "accuracy_decomposed", "accuracy_baseline")
    caption = f"{layer} of CharNet replaced, no fine-tuning; {sure}; {hardware(rows)}"
    return show(lines, columns, to_be_made(RUN_03), caption)
