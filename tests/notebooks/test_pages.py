"""A reader's rule: the pages show ideas; what keeps books is short, marked, and lies elsewhere."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "notebooks").glob("0[0-9]_*.ipynb"))
BOOKS = {"record", "recorded"}  # tags of cells that write a record, or show recorded runs
MOST_LINES, MOST_SHARE = 8, 0.2
WRITES = re.compile(r"\b(cpnb|study)\.record\(")
SHOWS = re.compile(r"\bcpnb\.recorded\(|\btables\.\w+\(\)|\bfigures\.(?!use_style)\w+\(\)")
# Rows turned into tables, and tables styled, in a cell that says it does something else:
# pandas, and the lines that give a column its heading and format.
MUNGING = re.compile(
    r'^\s*"[^"]+": \("|\btables\.show\('
    r"|pd\.(DataFrame|concat|Series)|\.style\b|\.(groupby|pivot|pivot_table|melt|rename|agg|unstack"
    r"|set_index|reset_index|drop_duplicates|rename_axis)\("
)


def code_cells(path) -> list:
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def lines(cell) -> list:
    return [line for line in cell.source.splitlines() if line.strip()]


def keeps_books(cell) -> bool:
    return bool(BOOKS & set(cell.metadata.get("tags", [])))


def book_keeping(cells) -> int:
    """Lines of cells that keep books, and of table making among the others."""
    return sum(
        len(lines(cell)) if keeps_books(cell) else sum(bool(MUNGING.search(x)) for x in lines(cell))
        for cell in cells
    )


def test_there_are_pages():
    assert [page.stem[:2] for page in PAGES] == [
        "00",
        "01",
        "02",
        "03",
        "04",
        "05",
        "06",
        "07",
        "08",
        "09",
    ]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_cells_that_record_or_show_records_say_so(path):
    cells = code_cells(path)
    unmarked = [
        cell.source.splitlines()[0]
        for cell in cells
        if (WRITES.search(cell.source) or SHOWS.search(cell.source)) and not keeps_books(cell)
    ]
    assert not unmarked, "tag these cells 'record' or 'recorded'"
    assert any(keeps_books(cell) for cell in cells)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_book_keeping_is_short(path):
    longest = max(len(lines(cell)) for cell in code_cells(path) if keeps_books(cell))
    assert longest <= MOST_LINES


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_at_most_a_fifth_of_a_page_keeps_books(path):
    cells = code_cells(path)
    share = book_keeping(cells) / sum(len(lines(cell)) for cell in cells)
    assert share <= MOST_SHARE, f"{share:.0%} of the lines of code"
