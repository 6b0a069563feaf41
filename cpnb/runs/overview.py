"""A sweep as one table: each point with its parameters, its figures, and what became of it."""

from __future__ import annotations

import contextlib
import gc
import json
from pathlib import Path

from cpnb.runs.jsonl import read

ABOUT = ("notebook", "output", "state", "seconds", "threads")
# Columns of a record that are no figures: they say what was run, where, and of which code.
NO_FIGURES = {
    *ABOUT, "claim", "run", "parameters", "utc", "commit", "dirty", "device", "cpu", "simd",
    "cores", "gpu", "versions",
}  # fmt: skip


def newest(rows: list[dict]) -> list[dict]:
    """Rows without those of an earlier run of the same notebook with the same parameters.

    Rows that do not tell their run, as of code outside of notebooks, all stay.
    """
    points = [_point(row) if "run" in row else None for row in rows]
    last = {point: row["run"] for point, row in zip(points, rows, strict=True) if point}
    return [r for p, r in zip(points, rows, strict=True) if p is None or last[p] == r["run"]]


def _point(row: dict) -> tuple:
    """What a run is of; the same on another machine, or of other code, is another measurement."""
    parameters = json.dumps(row.get("parameters"), sort_keys=True)
    return row.get("claim"), row.get("output"), parameters, row.get("cpu"), row.get("commit")


def load(folder):
    """All points of a sweep, or of several in one folder, as a table.

    Parameters
    ----------
    folder : path-like
        The sweep's ``--out`` or `output_dir`; its ``runs.jsonl`` tells the points, its
        ``records.jsonl`` the figures. Where only the latter is, each of its runs is a point.

    Returns
    -------
    pandas.DataFrame
        A row a point: ``notebook``, ``output``, ``state`` (planned, finished, failed, stopped),
        ``seconds`` and ``threads``; then the parameters; then the figures that the finished run
        has recorded: numbers, texts and booleans, and those inside of dicts as dict.name. A figure
        that is named like a parameter, or like another claim's, is called claim.name.

    Raises
    ------
    FileNotFoundError
        If neither file is there.
    """
    folder = Path(folder).expanduser()
    files = [folder / name for name in ("runs.jsonl", "records.jsonl")]
    if not any(file.is_file() for file in files):
        raise FileNotFoundError(f"{folder} holds no sweep: neither runs.jsonl nor records.jsonl")
    with _no_collection():
        runs, rows = (read(file) if file.is_file() else [] for file in files)
        points = _merged(runs) if runs else _recorded_points(rows)
        return _frame(points, _rows_by_run(rows))


@contextlib.contextmanager
def _no_collection():
    """Without looks for garbage: of 100,000 rows none is, and the looks take half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _merged(runs: list[dict]) -> list[dict]:
    """One row a point: later values count, and an earlier run's seconds are not a failed one's."""
    points = {}
    for row in runs:
        fresh = {"seconds": None, "run": None, "threads": None} | row
        points.setdefault(row.get("output"), {}).update(fresh)
    return list(points.values())


def _recorded_points(rows: list[dict]) -> list[dict]:
    """A point for each run in the records; rows without one get a run of their own."""
    points = {}
    for number, row in enumerate(newest(rows)):
        run = row.setdefault("run", number)
        points.setdefault(run, row | {"state": "finished"})
    return list(points.values())


def _rows_by_run(rows: list[dict]) -> dict:
    found = {}
    for row in rows:
        found.setdefault(row.get("run"), []).append(row)
    return found


def _frame(points: list[dict], rows: dict):
    """Three blocks of columns side by side: about the run, parameters, figures."""
    import pandas  # here: it takes a second or two to load

    about = [{name: point.get(name) for name in ABOUT} for point in points]
    given = [point.get("parameters") or {} for point in points]
    figures = [
        _figures(rows.get(point.get("run"), []), parameters)
        for point, parameters in zip(points, given, strict=True)
    ]
    given = [
        {name if name not in ABOUT else f"parameters.{name}": v for name, v in part.items()}
        for part in given
    ]
    frames = [pandas.DataFrame(part, index=range(len(points))) for part in (about, given, figures)]
    return pandas.concat(frames, axis=1)


def _figures(rows: list[dict], parameters: dict) -> dict:
    """Figures of a run by name, from all rows that it has recorded."""
    figures = {}
    for row in rows:
        for name, value in _scalars(row):
            if name in parameters:
                if parameters[name] == value:
                    continue
                name = f"{row.get('claim')}.{name}"
            elif name in figures:
                name = f"{row.get('claim')}.{name}"
            figures[name] = value
    return figures


def _scalars(row: dict):
    for name, value in row.items():
        if name in NO_FIGURES:
            continue
        if isinstance(value, dict):
            for inner, item in value.items():
                if isinstance(item, (int, float, str)):
                    yield f"{name}.{inner}", item
        elif isinstance(value, (int, float, str)):
            yield name, value
