"""What has become of the points of a folder: a row for each when it is planned, and when it ends.

The rows stand in ``runs.jsonl`` beside the executed notebooks. They tell of a sweep without its
notebooks being opened; what decides whether a run has finished is the notebook itself.
"""

from __future__ import annotations

import datetime
import json
import statistics
import warnings
from pathlib import Path

from cpnb.runs.jsonl import append_all, read
from cpnb.runs.keys import Inputs
from cpnb.runs.locks import FOLDER, holder

FILE = "runs.jsonl"


def is_finished(output: Path, now: Inputs) -> bool:
    """Whether the executed notebook is of a run that depended on the same things."""
    told = about(output)
    return told is not None and told["key"] == now.key(told["written"])


def about(output: Path) -> dict | None:
    """What a finished run has noted in its notebook; None if there is none, or it is not ours."""
    try:
        told = json.loads(output.read_text(encoding="utf-8"))["metadata"]["cpnb"]
        return told if {"key", "written"} <= told.keys() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def note(folder: Path, rows: list[dict]) -> None:
    """Add rows; a disk that is full costs the row, not the sweep."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    try:
        append_all([row | {"utc": now} for row in rows], folder / FILE)
    except OSError as error:
        warnings.warn(f"{folder / FILE}: {error}; states are not noted", stacklevel=2)


def states(folder: Path) -> dict[str, dict]:
    """All points of a folder by the name of the executed notebook: what is known of each.

    Besides what its rows tell, in which later values count, a point that is being run now has the
    state "running", and the cell it is at.
    """
    known = {}
    for row in read(folder / FILE) if (folder / FILE).is_file() else []:
        if isinstance(row.get("output"), str):
            known.setdefault(row["output"], {}).update(row)
    for lock in (folder / FOLDER).glob("*.lock"):
        name = f"{lock.stem}.ipynb"
        if name in known and (told := holder(lock)) is not None:
            known[name] |= {"state": "running"} | told
    return known


def expected_seconds(known: dict[str, dict], notebook: str, output: str) -> float | None:
    """How long a run will take, by its own earlier one or else the median of the notebook's."""
    if own := known.get(output, {}).get("seconds"):
        return own
    earlier = [
        row["seconds"]
        for row in known.values()
        if row.get("notebook") == notebook and row.get("seconds")
    ]
    return statistics.median(earlier) if earlier else None
