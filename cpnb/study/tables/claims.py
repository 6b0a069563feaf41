"""The table of claims, and the command behind each, narrow enough for a notebook's page."""

from __future__ import annotations

from cpnb.study import report
from cpnb.study.tables.layout import Table, show

HEADINGS = {"claim": "claim", "paper": "the paper", "here": "here", "hardware": "on"}


def _lines(rows: list[dict] | None) -> list[dict]:
    """Lines of the report as plain text: in a notebook's table no Markdown is read."""
    return [
        {key: text.replace("`", "") for key, text in vars(line).items()}
        for line in report.lines(rows)
    ]


def claims(rows: list[dict] | None = None) -> Table:
    """Every claim: the paper, what was measured here and on what, and the verdict.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    headings = HEADINGS | {"verdict": "verdict"}
    return show(_lines(rows), {key: (heading, "{}") for key, heading in headings.items()})


def commands() -> Table:
    """The command that makes the runs behind each claim again."""
    columns = {"claim": ("claim", "{}"), "command": ("the command that makes its runs", "{}")}
    return show(_lines([]), columns)
