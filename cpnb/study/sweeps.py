"""A grid of runs as points of a trade-off: accuracy lost against speed won."""

from __future__ import annotations

from cpnb.runs.notebooks import Run
from cpnb.runs.records import recorded
from cpnb.study.selection import lost


def record_of(run: Run, claim: str) -> dict:
    """The newest record beside a run's notebook that has the run's parameters.

    Raises
    ------
    LookupError
        If there is none: the run has finished before, and its record is gone.
    """
    for row in reversed(recorded(run.output.parent / "records.jsonl", claim=claim)):
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
