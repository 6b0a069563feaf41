"""How a table of runs looks, and which of the runs it tells of."""

import math

import pytest

from cpnb.study.selection import grouped, newest, newest_code
from cpnb.study.tables import layout
from cpnb.study.tables.layout import show, spread, together

COLUMNS = {
    "method": ("method", "{}"),
    "speedup": ("speed-up", layout.times),
    "error": ("relative error", "{:.3f}"),
}
ROWS = [
    {"method": "NLS", "speedup": 2.51, "error": [0.1, 0.3, 0.2], "commit": "a"},
    {"method": "ALS <10", "speedup": None, "error": [], "commit": "a"},
]


def cells(table):
    return table.data.to_numpy().tolist()


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (layout.percent, 0.912, "91.2%"),
        (layout.percent, 0.8815, "88.2%"),  # 100 × 0.8815 is just below 88.15
        (layout.percent, -0.003, "-0.3%"),
        (layout.times, 2.514, "2.5×"),
        (layout.points, 0.0086, "0.86"),
        (layout.rounded, 0.3407, "0.3"),
        (layout.rounded, 99.94, "99.9"),
        (layout.rounded, 51281.27, "51,281"),
    ],
)
def test_figures_have_units(form, value, text):
    assert form(value) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([14.3, 12.7, 14.9], "14.3× (12.7× to 14.9×)"),
        ([2.0, 1.0], "1.5× (1.0× to 2.0×)"),
        ([14.3], "14.3×"),
        ([14.31, 14.29], "14.3×"),
        ([None, 3.0, math.nan], "3.0×"),
        ([None], "–"),
        ([], "–"),
    ],
)
def test_the_spread_is_median_and_range(values, text):
    assert spread(values) == text


def test_a_table_has_headings_for_columns_and_text_for_values():
    table = show(ROWS, COLUMNS)
    assert list(table.data.columns) == ["method", "speed-up", "relative error"]
    assert cells(table) == [["NLS", "2.5×", "0.200 (0.100 to 0.300)"], ["ALS <10", "–", "–"]]


def test_html_shows_no_index_no_column_name_and_text_as_it_is():
    html = show(ROWS, COLUMNS, caption="Some CPU, 2 threads")._repr_html_()
    assert "row_heading" not in html and "speedup" not in html and "commit" not in html
    assert "ALS &lt;10" in html and "<caption>Some CPU, 2 threads</caption>" in html


def test_a_range_is_not_broken_into_lines():
    html = show(
        [{"error": [1.0, 3.0]}, {"error": "0.5 ± 0.1 (≤ 0.7) (to be seen)"}], {"error": ("", "{}")}
    )
    assert "2.0 (1.0\u00a0to\u00a03.0)" in html.to_html()
    assert "0.5 ±\u00a00.1 (≤\u00a00.7) (to be seen)" in html.to_html()
    assert cells(html)[0] == ["2.0 (1.0 to 3.0)"]  # as text it has plain spaces


def test_words_stand_left_and_figures_right():
    columns = COLUMNS | {"text": ("told", "{}")}
    html = show([row | {"text": "0.8 ± 0.1"} for row in ROWS], columns).to_html()
    assert html.count("text-align: left") == 1 and ".col0 {\n  text-align: left" in html


def test_equal_tables_have_equal_html_and_others_their_own_styles():
    assert show(ROWS, COLUMNS).to_html() == show(ROWS, COLUMNS).to_html()
    mark = [show(rows, COLUMNS).to_html().split()[2] for rows in (ROWS, ROWS[:1])]
    assert mark[0].startswith("#T_") and mark[0] != mark[1]


def test_as_text_it_is_the_same_table():
    lines = repr(show(ROWS, COLUMNS, caption="Some CPU")).splitlines()
    assert lines[0] == "Some CPU" and lines[1].split("  ")[-1].strip() == "relative error"
    assert lines[2].split() == ["NLS", "2.5×", "0.200", "(0.100", "to", "0.300)"]
    assert len(lines) == 4


def test_without_rows_a_table_says_what_makes_them():
    table = show([], COLUMNS, layout.to_be_made("make bench-solver"), caption="Some CPU")
    assert cells(table) == [["nothing recorded yet; this records it: make bench-solver"]]
    assert "Some CPU" not in repr(table)


RUNS = [
    {"commit": "old", "net": "a", "seed": 0, "ranks": [1, 2], "value": 1},
    {"commit": "old", "net": "b", "seed": 0, "ranks": [1, 2], "value": 2},
    {"commit": "new", "net": "a", "seed": 0, "ranks": [1, 2], "value": 3},
    {"commit": "new", "net": "a", "seed": 1, "ranks": [1, 3], "value": 4},
    {"commit": "new", "net": "a", "seed": 0, "ranks": [1, 2], "value": 5},
]


def values(rows):
    return [row["value"] for row in rows]


def test_newest_code_is_that_of_the_last_row_among_those_that_agree():
    assert values(newest_code(RUNS)) == [3, 4, 5]
    assert values(newest_code(RUNS, "net")) == [2, 3, 4, 5]
    assert values(newest_code(RUNS, "net", "nowhere")) == [2, 3, 4, 5]
    assert newest_code([]) == []


def test_of_equal_runs_the_last_counts():
    assert values(newest(RUNS, "net", "seed")) == [5, 2, 4]
    assert values(newest(RUNS, "ranks")) == [5, 4]


def test_runs_are_grouped_in_order_of_appearance():
    assert [values(group) for group in grouped(RUNS, "net")] == [[1, 3, 4, 5], [2]]
    assert [values(group) for group in grouped(RUNS, "ranks")] == [[1, 2, 3, 5], [4]]


def test_together_their_values_are_lists_that_a_table_spreads():
    line = together(RUNS[:3], "value", "missing")
    assert line == {"value": [1, 2, 3], "missing": [None, None, None]}
    columns = {"value": ("value", "{:g}"), "missing": ("missing", "{}")}
    assert cells(show([line], columns)) == [["2 (1 to 3)", "–"]]
