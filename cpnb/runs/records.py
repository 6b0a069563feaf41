"""Run records: one row a run, in JSON Lines, appended and never rewritten.

Every figure that README or the report quotes comes from such a row, so a row says what was run
(claim and parameters), on what (device, threads, package versions) and from which code (commit).
Runs write to a local file; `publish` copies rows into the committed results/records.jsonl.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from cpnb.runs.jsonl import append, encode, plain, read
from cpnb.runs.machine import environment, leads
from cpnb.runs.overview import load, newest
from cpnb.runs.places import repository, shipped

__all__ = [
    "append", "encode", "load", "plain", "published_path", "read", "record", "recorded",
    "results_folder", "results_path",
]  # fmt: skip

RUN = "CPNB_RUN"  # set in kernels that are started to run a notebook: the run, as JSON
RESERVED = ("claim", "commit", "dirty", "utc", "versions")


def results_folder() -> Path:
    """Folder of this machine's results: the environment variable CPNB_RESULTS, or results/local."""
    given = os.environ.get("CPNB_RESULTS")
    return Path(given).expanduser().resolve() if given else repository() / "results" / "local"


def results_path() -> Path:
    """File that `record` appends to."""
    return results_folder() / "records.jsonl"


def own_run() -> dict | None:
    """The run that this kernel was started for, as `notebooks` tells it; None outside of one."""
    told = os.environ.get(RUN)
    return json.loads(told) if told else None


def published_path() -> Path:
    """The committed file of records, results/records.jsonl."""
    return shipped("results/records.jsonl")


def record(claim: str, **values) -> dict:
    """Write the record of a run: the claim it is about, its values, and the `environment`.

    Parameters
    ----------
    claim : str
        Short name of what the run shows, such as "charnet-finetune".
    **values
        Parameters and measurements. `device`, `threads` and the like override the environment's,
        for a run that was measured with others.

    Returns
    -------
    dict
        The row, which goes to `results_path()`: at once, or, from a notebook that is run by
        :func:`cpnb.runs.sweep.run_notebook` or a sweep, when that run has finished. Such a row
        tells its run, the run's parameters, and the name of the executed notebook (output). Of
        several processes that train together the first one writes it.

    Raises
    ------
    ValueError
        If the claim is empty, or a value has a name that the record itself fills in.
    """
    if not isinstance(claim, str) or not claim.strip():
        raise ValueError(f"claim={claim!r}; accepted is a non-empty string")
    taken = sorted(set(values) & set(RESERVED))
    if taken:
        raise ValueError(f"{', '.join(taken)}: filled in by the record; choose other names")
    run = own_run()
    about = {name: run[name] for name in ("run", "output", "parameters")} if run else {}
    row = plain({"claim": claim} | environment() | about | values, "row")
    if leads():
        append(row, run["staged"] if run else results_path())
    return row


def recorded(path=None, **filters) -> list[dict]:
    """Rows of the committed records, or of another file, that have all the given values.

    A parameter of the run reads like any other column; where a row has a value of the same name,
    that one counts (the characters there were, not the number asked for).

    Parameters
    ----------
    path : path-like, optional
        File to read; results/records.jsonl by default. No file means no rows yet: an empty list.
    **filters
        Column name and value, such as ``claim="charnet-finetune", seed=0``.
    """
    path = published_path() if path is None else Path(path).expanduser()
    wanted = plain(filters, "filters")
    rows = [row.get("parameters", {}) | row for row in newest(_rows(path))]
    return [row for row in rows if all(k in row and row[k] == value for k, value in wanted.items())]


def _rows(path: Path) -> list[dict]:
    """Rows of a file; in a run, of this machine's also those that the run has made so far."""
    run = own_run()
    staged = [Path(run["staged"])] if run and path.resolve() == results_path().resolve() else []
    return [row for file in (path, *staged) if file.exists() for row in read(file)]
