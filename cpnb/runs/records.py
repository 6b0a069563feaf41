"""Run records: one row a run, in JSON Lines, appended and never rewritten.

Every figure that README or the report quotes comes from such a row, so a row says what was run
(claim and parameters), on what (device, threads, package versions) and from which code (commit).
Runs write to a local file; `publish` copies rows into the committed results/records.jsonl.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from cpnb.runs.machine import environment
from cpnb.runs.places import repository, shipped

try:
    import fcntl
except ImportError:  # Windows has no advisory locks; appending there relies on single writes alone.
    fcntl = None

RESERVED = ("claim", "commit", "dirty", "utc", "versions")
# Standard JSON has no such numbers; these strings are written for them and read back as numbers.
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def results_folder() -> Path:
    """Folder of this machine's results: the environment variable CPNB_RESULTS, or results/local."""
    given = os.environ.get("CPNB_RESULTS")
    return Path(given).expanduser().resolve() if given else repository() / "results" / "local"


def results_path() -> Path:
    """File that `record` appends to."""
    return results_folder() / "records.jsonl"


def published_path() -> Path:
    """The committed file of records, results/records.jsonl."""
    return shipped("results/records.jsonl")


def plain(value, name="value"):
    """Turn a value into what JSON knows: numbers, strings, booleans, None, lists and dicts.

    Parameters
    ----------
    value : object
        NumPy and torch scalars and arrays, dataclasses, named tuples, paths, dates, devices and
        dtypes become numbers, lists, dicts and strings.
    name : str
        How the error names the value.

    Raises
    ------
    TypeError
        If the value, or something inside it, has no such form.
    ValueError
        If two keys of a dict are the same as text, such as 1 and "1".
    """
    if value is None or isinstance(value, (bool, str, int, float)):
        return value
    if isinstance(value, torch.Tensor):
        return plain(value.detach().cpu().tolist(), name)
    if isinstance(value, (np.generic, np.ndarray)):
        return plain(value.tolist(), name)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value), name)
    if hasattr(value, "_asdict"):
        return plain(value._asdict(), name)
    if isinstance(value, dict):
        return _once([(str(key), plain(item, f"{name}[{key!r}]")) for key, item in value.items()])
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, (os.PathLike, torch.device, torch.dtype, np.dtype, datetime.date)):
        return str(value)
    raise TypeError(
        f"{name} is a {type(value).__name__}, which a record cannot hold; accepted are numbers, "
        "strings, booleans, None, arrays and tensors, and lists and dicts of these"
    )


def _once(pairs: list[tuple]) -> dict:
    """The dict of these pairs; of equal names the last one must not win without a word."""
    one = dict(pairs)
    if len(one) < len(pairs):
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        raise ValueError(f"{', '.join(map(repr, twice))} stands twice among the keys of one dict")
    return one


def _map_floats(value, function):
    if isinstance(value, dict):
        return {key: _map_floats(item, function) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_floats(item, function) for item in value]
    return function(value)


def _finite(value):
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def encode(row: dict) -> str:
    """One line of JSON for a row; equal rows give equal lines."""
    return json.dumps(_map_floats(plain(row, "row"), _finite), allow_nan=False, ensure_ascii=False)


def _decode(line: bytes) -> dict:
    row = json.loads(line.decode("utf-8"), object_pairs_hook=_once)
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, found {type(row).__name__}")
    return _map_floats(row, lambda x: NON_FINITE.get(x, x) if isinstance(x, str) else x)


def append(row: dict, path) -> None:
    """Append one row to a JSON Lines file: whole or not at all, also with several writers.

    Parameters
    ----------
    row : dict
        Column name to value; see `plain` for the values accepted. NaN and infinities are kept.
    path : path-like
        The file; it and its folder are made if they do not exist.

    Raises
    ------
    TypeError
        If a value cannot be written; the file is then as it was.
    OSError
        If the disk is full, say; a part of a row is taken back.
    """
    line = (encode(row) + "\n").encode("utf-8")
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+", buffering=0) as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        if size and not _ends_with_newline(file, size):
            line = b"\n" + line  # Remains of a killed writer keep a line of their own.
        try:
            if file.write(line) != len(line):
                raise OSError(f"{path}: the row was written only in part; is the disk full?")
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def _ends_with_newline(file, size) -> bool:
    file.seek(size - 1)
    return file.read(1) == b"\n"


def read(path) -> list[dict]:
    """Rows of a JSON Lines file, in order.

    A line that does not parse is named in a warning (file, line number, reason) and left out.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    rows = []
    for number, line in enumerate(Path(path).expanduser().read_bytes().split(b"\n"), start=1):
        try:
            if line.strip():
                rows.append(_decode(line))
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors too.
            warnings.warn(f"{path}, line {number}: {error}; this row is skipped", stacklevel=2)
    return rows


def record(claim: str, **values) -> dict:
    """Write the record of a run: the claim it is about, its values, and the `environment`.

    Parameters
    ----------
    claim : str
        Short name of what the run shows, such as "charnet-64-64".
    **values
        Parameters and measurements. `device`, `threads` and the like override the environment's,
        for a run that was measured with others.

    Returns
    -------
    dict
        The row that was appended to `results_path()`.

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
    row = plain({"claim": claim} | environment() | values, "row")
    append(row, results_path())
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
        Column name and value, such as ``claim="charnet-64-64", seed=0``.
    """
    path = published_path() if path is None else Path(path).expanduser()
    wanted = plain(filters, "filters")
    rows = [row.get("parameters", {}) | row for row in read(path)] if path.exists() else []
    return [row for row in rows if all(k in row and row[k] == value for k, value in wanted.items())]
