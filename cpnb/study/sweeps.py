"""A grid of runs as points of a trade-off: accuracy lost against speed won."""

from __future__ import annotations

from cpnb.runs.notebooks import Run
from cpnb.runs.records import recorded, results_path
from cpnb.study.selection import lost


def record_of(run: Run, claim: str) -> dict:
    """The newest record in this machine's results that has the parameters of a run.

    Raises
    ------
    LookupError
        If there is none: the run has finished before, and its record is gone.
    """
    for row in reversed(recorded(results_path(), claim=claim)):
        if all(row["parameters"].get(name) == value for name, value in run.parameters.items()):
            return row
    raise LookupError(f"no record of {run.output}; delete that file and run again")


def points(rows: list[dict]) -> list[dict]:
    """Rows as `figures.tradeoff` draws them: drops in percentage points.

    Parameters
    ----------
    rows : list of dict
        Records of notebook 04.

    Returns
    -------
    list of dict
        Keys: label (ranks, conv2 first), speedup and bound (×), drop_before and drop_after.
    """
    return [
        {
            "label": "/".join(map(str, row["ranks"])),
            "speedup": row["speedup"],
            "bound": row["bound"],
            "drop_before": lost(row, "decomposed"),
            "drop_after": lost(row),
        }
        for row in rows
    ]
