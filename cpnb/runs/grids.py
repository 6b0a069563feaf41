"""Grids of parameters: values read from the command line, points, and a file name for each."""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import re
from collections import Counter

from cpnb.runs.records import plain

WORDS = {"true": True, "false": False, "none": None, "null": None}


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
        if len({json.dumps(value, sort_keys=True) for value in values}) < len(values):
            raise ValueError(f"grid[{name!r}]={values!r} lists a value twice")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def point_name(stem: str, point: dict, shared: bool = False) -> str:
    """File name that tells the point, such as 03_decompose__rank=16__method=nls.ipynb."""
    parts = [f"{name}={value}" for name, value in point.items()]
    name = "__".join([stem, *(re.sub(r"[^\w.=+-]+", "-", part).strip("-") for part in parts)])
    if shared or len(name) > 120 or name != "__".join([stem, *parts]):  # keep names distinct
        digest = hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()
        name = f"{name[:110]}__{digest[:8]}"
    return f"{name}.ipynb"


def point_names(stem: str, points: list[dict]) -> list[str]:
    """A file name for each point; names that look alike, as of 1 and "1", get a hash each."""
    names = [point_name(stem, point) for point in points]
    count = Counter(name.casefold() for name in names)  # some disks do not tell N from n
    return [
        point_name(stem, point, shared=count[name.casefold()] > 1)
        for name, point in zip(names, points, strict=True)
    ]


def value_of(text: str, default):
    """A value of the command line: text for a text parameter, else a Python literal if so."""
    if isinstance(default, str):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return WORDS.get(text.lower(), text)


def values_of(text: str, default) -> list:
    """Values of one grid axis: 16,32 or nls,als or [1,2],[3,4]."""
    if not isinstance(default, str):
        try:
            return list(ast.literal_eval(f"[{text}]"))
        except (ValueError, SyntaxError):
            pass
    return [value_of(part.strip(), default) for part in text.split(",")]
