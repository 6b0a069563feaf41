"""The table of claims, and the command behind each, narrow enough for a notebook's page."""

from __future__ import annotations

from cpnb.study import report
from cpnb.study.tables.layout import Table, show

LAST = {"here": "here", "hardware": "on", "verdict": "verdict"}


def _lines(rows: list[dict] | None, marks: str = "CAUO") -> list[dict]:
    """Lines of the report as plain text: in a notebook's table no Markdown is read."""
    return [
        {key: text.replace("`", "") for key, text in vars(line).items()}
        for line in report.lines(rows, marks)
    ]


def claims(rows: list[dict] | None = None) -> Table:
    """Confirmed claims: what its paper says, what was measured here and on what, and the verdict.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    return _table(rows, "CA", {"claim": "claim", "paper": "its paper, or our arithmetic"} | LAST)


def questions(rows: list[dict] | None = None) -> Table:
    """Questions of ours, from figures that are told of the paper and could not be confirmed.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    headings = {"claim": "question", "paper": "asked"} | LAST | {"verdict": "answer"}
    return _table(rows, "U", headings)


def beyond(rows: list[dict] | None = None) -> Table:
    """What the package does that the paper did not try.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    return _table(rows, "O", {"claim": "what"} | LAST)


def _table(rows: list[dict] | None, marks: str, headings: dict) -> Table:
    columns = {key: (heading, "{}") for key, heading in headings.items()}
    return show(_lines(rows, marks), columns)


def commands() -> Table:
    """The command that makes the runs behind each claim again."""
    columns = {"claim": ("claim", "{}"), "command": ("the command that makes its runs", "{}")}
    told = "full.yaml, rivals.py, alexnet.py and 07 need CPNB_DATA, the folder of the data sets"
    return show(_lines([]), columns, caption=told)
