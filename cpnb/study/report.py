"""The table of claims: what the paper says, what was measured here, and the verdict.

Every figure comes from the committed records (results/records.jsonl). ``python -m cpnb report``
prints the table; with ``--readme`` it also writes it between README's two markers.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import astuple, dataclass
from pathlib import Path

from cpnb.runs.places import repository
from cpnb.runs.records import published_path, recorded
from cpnb.study.claims import CLAIMS, Claim
from cpnb.study.findings import Finding
from cpnb.study.machines import hardware

BEGIN, END = "<!-- report: begin -->", "<!-- report: end -->"
MARKS = {"C": "confirmed", "U": "unconfirmed", "A": "our arithmetic", "O": "ours"}
# Heading of each table: marks of its claims, and what its second column is.
PARTS = {
    "Claims of the paper and of its rivals": ("CA", "its paper, or our arithmetic"),
    "Questions of ours": ("U", "asked"),
    "Beyond the paper": ("O", "–"),
}


@dataclass(frozen=True)
class Line:
    """One row of the table, all text."""

    claim: str
    paper: str
    here: str
    hardware: str
    verdict: str
    command: str


def lines(rows: list[dict] | None = None, marks: str = "CAUO") -> list[Line]:
    """Every claim of these marks with what the records (by default the committed) say to it."""
    rows = recorded() if rows is None else rows
    return [_line(claim, rows) for claim in CLAIMS if claim.mark in marks]


def _line(claim: Claim, rows: list[dict]) -> Line:
    found = claim.find(rows) or Finding("–", claim.missing, [])
    here, verdict, runs, _ = found
    paper = f"{claim.paper} ({MARKS[claim.mark]})" if claim.mark != "O" else "–"
    command = f"`{claim.command}`" if claim.command else "–"
    return Line(claim.text, paper, here, hardware(runs), verdict, command)


def markdown(rows: list[dict] | None = None) -> str:
    """The tables in Markdown, a heading above each."""
    rest = ("here", "on", "verdict", "command")
    return "\n\n".join(
        f"## {heading}\n\n"
        + _table([("claim", second, *rest), *(astuple(line) for line in lines(rows, marks))])
        for heading, (marks, second) in PARTS.items()
    )


def short(rows: list[dict]) -> str:
    """The few rows that README shows, in Markdown: of the paper's figures confirmed ones alone."""
    table = [("claim", "the paper", "here", "verdict")]
    for claim in CLAIMS:
        if claim.short:
            found = claim.find(rows) or Finding("–", claim.missing, [])
            here = found.brief or found.here
            table.append((claim.short, claim.paper, here, found.verdict))
    return _table(table)


def _table(lines: list[tuple]) -> str:
    head, *rest = lines
    return "\n".join(f"| {' | '.join(c)} |" for c in [head, tuple("---" for _ in head), *rest])


def write_readme(path: Path, rows: list[dict] | None = None) -> bool:
    """Put the table between the markers of ``path``; returns whether the file changed.

    Raises
    ------
    ValueError
        The markers are missing.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{path} must hold {BEGIN} and {END} once each")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    new = f"{before}{BEGIN}\n{short(recorded() if rows is None else rows)}\n{END}{after}"
    if new != text:
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(new, encoding="utf-8")
        os.replace(temporary, path)
    return new != text


def main(arguments=None) -> int:
    """Command line of the report."""
    parser = argparse.ArgumentParser(
        prog="python -m cpnb report", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--readme", action="store_true", help="also write it into README.md")
    options = parser.parse_args(arguments)
    rows = recorded()
    if not rows:
        parser.exit(1, f"no records in {published_path()}: without them every claim is untested\n")
    print(markdown(rows))
    if options.readme:
        write_readme(repository() / "README.md", rows)
        draw(repository() / "results" / "figures" / "headline.svg", rows)
    return 0


def draw(path: Path, rows: list[dict]) -> None:
    """Draw README's figure; the file is the same for the same records."""
    import matplotlib  # here: a report without it is quicker

    matplotlib.use("Agg")
    from cpnb.study import figures

    figures.use_style()
    with matplotlib.rc_context({"svg.hashsalt": "cpnb"}):
        figures.headline(rows).savefig(path, metadata={"Date": None})
