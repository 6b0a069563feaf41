"""A page is as new as the rows it quotes: what it shows of the records is what they say today."""

from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest

import cpnb
from cpnb.runs.sweep import notebook_parameters
from cpnb.study import figures, tables

ROOT = Path(__file__).resolve().parents[2]
OWN = ("tables.own_runs",)  # of the machine that a page was executed on
CELLS = [
    pytest.param(path, number, id=f"{path.stem[:2]}-{number}")
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells)
    if "recorded" in cell.metadata.get("tags", []) and cell.source.startswith("tables.")
    and not cell.source.startswith(OWN)
]  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return cpnb.recorded()


def shown(cell) -> str:
    """The text of a cell's result, as the page has it."""
    (output,) = (o for o in cell.outputs if o.output_type == "execute_result")
    return "".join(output.data.get("text/markdown") or output.data["text/plain"])


def test_there_are_such_cells():
    assert len(CELLS) >= 25


@pytest.mark.parametrize("path, number", CELLS)
def test_the_page_shows_what_the_records_say(path, number, rows):
    cell = nbformat.read(path, as_version=4).cells[number]
    names = {"tables": tables, "figures": figures, "plt": plt, "cpnb": cpnb, "rows": rows}
    result = eval(cell.source, names | notebook_parameters(path))  # noqa: S307
    told = result.data if hasattr(result, "_repr_markdown_") else repr(result)
    assert shown(cell) == told, f"{path.name} is older than its rows: execute it (make notebooks)"
