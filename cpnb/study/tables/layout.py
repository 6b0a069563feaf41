"""How a table of runs looks: names with units, no index, the spread beside a median."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import pandas as pd

Format = str | Callable
NOTHING = "–"


def percent(share: float) -> str:
    """0.912 → "91.2%"."""
    return f"{100 * share:.1f}%"


def times(factor: float) -> str:
    """2.514 → "2.5×"."""
    return f"{factor:.1f}×"


def points(share: float) -> str:
    """A difference of shares in percentage points: 0.0086 → "0.86"."""
    return f"{100 * share:.2f}"


def spread(values, form: Format = times) -> str:
    """Median and range: "14.3× (12.7× to 14.9×)"; one value stands alone."""
    values = [value for value in values if value is not None]
    if not values:
        return NOTHING
    told = [_text(value, form) for value in (median(values), min(values), max(values))]
    return told[0] if len(values) == 1 else f"{told[0]} ({told[1]} to {told[2]})"


def _text(value, form: Format) -> str:
    if value is None or value != value:
        return NOTHING
    return form(value) if callable(form) else form.format(value)


def show(rows: list[dict], columns: dict[str, tuple[str, Format]], empty: str = "nothing recorded"):
    """A table of rows for a notebook's page.

    Parameters
    ----------
    rows : list of dict
    columns : dict
        Column of a row to (heading with its unit, format): a format string or a function of the
        value. Values that are None or missing show as a dash.
    empty : str
        What to say if there are no rows, such as the command that makes them.

    Returns
    -------
    pandas.io.formats.style.Styler
    """
    if not rows:
        rows, columns = [{"": empty}], {"": ("", "{}")}
    table = pd.DataFrame(
        [[_text(row.get(key), form) for key, (_, form) in columns.items()] for row in rows],
        columns=[heading for heading, _ in columns.values()],
    )
    return table.style.hide(axis="index")


def newest_code(rows: list[dict], *keys: str) -> list[dict]:
    """Of the rows that agree in `keys`, those recorded by the newest commit among them."""
    newest = {_key(row, keys): row["commit"] for row in rows}
    return [row for row in rows if row["commit"] == newest[_key(row, keys)]]


def newest(rows: list[dict], *keys: str) -> list[dict]:
    """Of the rows that agree in `keys`, the last one."""
    return list({_key(row, keys): row for row in rows}.values())


def grouped(rows: list[dict], *keys: str) -> list[list[dict]]:
    """Rows that agree in `keys`, together, in order of appearance."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(_key(row, keys), []).append(row)
    return list(groups.values())


def _key(row: dict, keys) -> tuple:
    return tuple(str(row.get(key)) for key in keys)
