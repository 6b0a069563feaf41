"""Lines of JSON: values made plain, rows appended whole or not at all, and read back.

Loads neither PyTorch nor NumPy: a value can be one of theirs only where they are loaded already.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import sys
import warnings
from collections import Counter
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no advisory locks; appending there relies on single writes alone.
    fcntl = None

# Standard JSON has no such numbers; these strings are written for them and read back as numbers.
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


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
    if _is_a(value, "torch", "Tensor"):
        return plain(value.detach().cpu().tolist(), name)
    if _is_a(value, "numpy", "generic", "ndarray"):
        return plain(value.tolist(), name)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value), name)
    if hasattr(value, "_asdict"):
        return plain(value._asdict(), name)
    if isinstance(value, dict):
        return _once([(str(key), plain(item, f"{name}[{key!r}]")) for key, item in value.items()])
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, (os.PathLike, datetime.date)) or (
        _is_a(value, "torch", "device", "dtype") or _is_a(value, "numpy", "dtype")
    ):
        return str(value)
    raise TypeError(
        f"{name} is a {type(value).__name__}, which a record cannot hold; accepted are numbers, "
        "strings, booleans, None, arrays and tensors, and lists and dicts of these"
    )


def _is_a(value, module: str, *names: str) -> bool:
    """Whether the value is of one of these types of a module; of none, if that is not loaded."""
    loaded = sys.modules.get(module)
    return isinstance(value, tuple(getattr(loaded, name, ()) for name in names))


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


DECODER = json.JSONDecoder(object_pairs_hook=_once)  # one for all lines: making one takes longest


def encode(row: dict) -> str:
    """One line of JSON for a row; equal rows give equal lines."""
    return json.dumps(_map_floats(plain(row, "row"), _finite), allow_nan=False, ensure_ascii=False)


def _decode(line: bytes) -> dict:
    row = DECODER.decode(line.decode("utf-8"))
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, found {type(row).__name__}")
    if b'NaN"' in line or b'Infinity"' in line:  # few have them, and the walk takes its time
        return _map_floats(row, lambda x: NON_FINITE.get(x, x) if isinstance(x, str) else x)
    return row


def append(row: dict, path) -> None:
    """Append one row to a JSON Lines file; see `append_all`."""
    append_all([row], path)


def append_all(rows: list[dict], path) -> None:
    """Append rows to a JSON Lines file: whole or not at all, also with several writers.

    Parameters
    ----------
    rows : list of dict
        Column name to value; see `plain` for the values accepted. NaN and infinities are kept.
    path : path-like
        The file; it and its folder are made if they do not exist.

    Raises
    ------
    TypeError
        If a value cannot be written; the file is then as it was.
    OSError
        If the disk is full, say; a part of what was written is taken back.
    """
    line = "".join(encode(row) + "\n" for row in rows).encode("utf-8")
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
                raise OSError(f"{path}: rows were written only in part; is the disk full?")
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
