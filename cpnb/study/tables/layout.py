"""How a table of runs looks: names with units, no index, the spread beside a median."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from statistics import median

import pandas as pd
from pandas.io.formats.style import Styler

Format = str | Callable
NOTHING = "–"


def percent(share: float) -> str:
    """0.912 → "91.2%"."""
    return f"{round(100 * share, 9):.1f}%"  # 100 * 0.8815 is 88.149…


def times(factor: float) -> str:
    """2.514 → "2.5×"."""
    return f"{factor:.1f}×"


def points(share: float) -> str:
    """A difference of shares in percentage points: 0.0086 → "0.86"."""
    return f"{100 * share:.2f}"


def rounded(value: float) -> str:
    """Of any size: 0.341 → "0.3", 51281.3 → "51,281"."""
    return f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"


def spread(values, form: Format = times) -> str:
    """Median and range: "14.3× (12.7× to 14.9×)"; what all runs share stands alone."""
    values = [value for value in values if _is_known(value)]
    if not values:
        return NOTHING
    told = [_text(value, form) for value in (median(values), min(values), max(values))]
    return told[0] if len(set(told)) == 1 else f"{told[0]} ({told[1]} to {told[2]})"


def _is_known(value) -> bool:
    return value is not None and value == value


def _text(value, form: Format) -> str:
    if isinstance(value, list):
        return spread(value, form)
    if not _is_known(value):
        return NOTHING
    return form(value) if callable(form) else form.format(value)


def _unbroken(text: str) -> str:
    """What stands beside a median keeps to one line where a narrow cell breaks into several."""
    beside = r"\(\S+( to)? \S+\)|± \S+"
    return re.sub(beside, lambda found: found[0].replace(" ", "\u00a0"), text)


class Table(Styler):
    """A styled table that reads as plain text too: in a terminal, and where notebooks are compared.

    Equal tables give equal HTML, so that a page executed again changes only where figures do.
    """

    def __init__(self, data: pd.DataFrame, caption: str | None = None, words=()):
        mark = f"{zlib.crc32(data.to_csv().encode()):08x}"
        super().__init__(data, uuid=mark, cell_ids=False, caption=caption)
        self.format(_unbroken, escape="html").format_index(escape="html", axis="columns")
        self.hide(axis="index")
        left = [{"selector": "", "props": "text-align: left"}]
        self.set_table_styles(dict.fromkeys(words, left), axis=0)

    def __repr__(self) -> str:
        told = [self.caption] if self.caption else []
        return "\n".join([*told, self.data.to_string(index=False)])


def show(
    rows: list[dict],
    columns: dict[str, tuple[str, Format]],
    empty: str = "nothing recorded",
    caption: str | None = None,
) -> Table:
    """A table of rows for a notebook's page.

    Parameters
    ----------
    rows : list of dict
    columns : dict
        Column of a row to (heading with its unit, format): a format string or a function of the
        value. Values that are None or missing show as a dash, lists as `spread` tells them.
    empty : str
        What to say if there are no rows, such as the command that makes them.
    caption : str, optional
        A line above the table: what all rows share, such as the machine.

    Returns
    -------
    pandas.io.formats.style.Styler
        Words to the left, figures to the right; its text is the same table.
    """
    if not rows:
        rows, columns, caption = [{"": empty}], {"": ("", "{}")}, None
    table = pd.DataFrame(
        [[_text(row.get(key), form) for key, (_, form) in columns.items()] for row in rows],
        columns=[heading for heading, _ in columns.values()],
    )
    words = [heading for heading in table if any(text[:1].isalpha() for text in table[heading])]
    return Table(table, caption, words)


def to_be_made(command: str) -> str:
    """What to say where nothing is recorded."""
    return f"nothing recorded yet; this records it: {command}"


def together(runs: list[dict], *keys: str) -> dict:
    """The values that some runs have in `keys`, as lists for `show`."""
    return {key: [run.get(key) for run in runs] for key in keys}
