"""Points of a sweep: values read from the command line or a file, and a file name for each.

A name is made of all parameters that differ from the notebook's defaults, in the order in which
the notebook declares them, so that the same point has the same name in every sweep.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import itertools
import json
import re
from pathlib import Path

from cpnb.runs.jsonl import plain
from cpnb.runs.yaml12 import read_yaml

WORDS = {"true": True, "false": False, "none": None, "null": None}
RANGE = re.compile(r"(-?\d+)-(-?\d+)")
LONGEST = 110  # characters of a name before its hash; disks take 255


def grid_points(grid: dict) -> list[dict]:
    """All combinations of a grid, the last name changing fastest.

    Raises
    ------
    ValueError
        If a name has no list of values, an empty one, or one with a value twice.
    """
    grid = plain(grid, "grid")
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"grid[{name!r}]={values!r}; accepted is a list of one value or more")
        if len({_json(value) for value in values}) < len(values):
            raise ValueError(f"grid[{name!r}]={values!r} lists a value twice")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def point_name(stem: str, given: dict, defaults: dict) -> str:
    """File name that tells the point, such as 04_finetune__rank_conv2=16__method=als.ipynb.

    Where a name alone would not tell the values, as of 1 and "1", or of N and n, which some disks
    do not tell apart, a hash of them is added.
    """
    changed = {
        name: given[name]
        for name, default in defaults.items()
        if name in given and _json(given[name]) != _json(default)
    }
    parts = [f"{name}={value}" for name, value in changed.items()]
    safe = [re.sub(r"[^\w.=+-]+", "-", part).strip("-") for part in parts]
    name = "__".join([stem, *safe])
    if safe != parts or len(name) > LONGEST + 10 or not all(map(_is_told, changed.values())):
        name = f"{name[:LONGEST]}__{hashlib.sha256(_json(changed).encode()).hexdigest()[:8]}"
    return f"{name}.ipynb"


def _json(value) -> str:
    return json.dumps(value, sort_keys=True)


def _is_told(value) -> bool:
    """Whether a value's text is read as that value again, and has no capitals if it is text."""
    text = str(value)
    if isinstance(value, str) and text != text.casefold():
        return False
    return _json(value_of(text, None)) == _json(value)


def value_of(text: str, default):
    """A value of the command line: text for a text parameter, else a Python literal if so."""
    if isinstance(default, str):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return WORDS.get(text.lower(), text)


def values_of(text: str, default) -> list:
    """Values of one grid axis: 16,32 or 0-4 or nls,als or [1,2],[3,4]; none of an empty text."""
    if not text.strip():
        return []
    if not isinstance(default, str):
        try:
            return list(ast.literal_eval(f"[{text}]"))
        except (ValueError, SyntaxError):
            pass
    parts = [part.strip() for part in text.split(",")]
    return [value for part in parts for value in _range_or_value(part, default)]


def _range_or_value(text: str, default) -> list:
    span = RANGE.fullmatch(text) if type(default) is int else None
    if span is None:
        return [value_of(text, default)]
    first, last = map(int, span.groups())
    return list(range(first, last + 1))


def read_points(path: Path) -> list[dict]:
    """Points of a file, one a line of CSV or an entry of a YAML list; texts in CSV stay texts.

    Raises
    ------
    OSError
        If there is no such file.
    ValueError
        If it has another form, no point, a point twice, or a line of another length.
    """
    points = _csv_points(path) if path.suffix.lower() == ".csv" else read_yaml(path)
    if not isinstance(points, list) or not all(isinstance(p, dict) and p for p in points):
        raise ValueError(f"{path}: expected a list of `parameter: value` entries, one a run")
    if not points:
        raise ValueError(f"{path} has no points")
    lines = {}
    for number, point in enumerate(points, start=1):
        if (first := lines.setdefault(_json(plain(point)), number)) != number:
            raise ValueError(f"{path}: points {first} and {number} are the same: {point}")
    return points


def _csv_points(path: Path) -> list[dict]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        header, *lines = [line for line in csv.reader(text.splitlines()) if line] or [[]]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not CSV: {error}") from None
    names = [name.strip() for name in header]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: a name stands twice in the first line: {', '.join(names)}")
    for number, line in enumerate(lines, start=2):
        if len(line) != len(names):
            raise ValueError(f"{path}, line {number}: {len(line)} values for {len(names)} names")
    return [dict(zip(names, map(str.strip, line), strict=True)) for line in lines]
