"""The recorded training of the baseline."""

from __future__ import annotations

from cpnb.study.commands import RUN_02
from cpnb.study.intervals import GOOD, widest
from cpnb.study.machines import hardware
from cpnb.study.selection import chosen, newest, newest_code
from cpnb.study.tables.layout import Table, percent, show, to_be_made, together

COLUMNS = {
    "accuracy": ("accuracy", percent),
    "accuracy_good": ("GoodImg alone", percent),
    "accuracy_drawn": ("drawn, unseen fonts", percent),
    "samples": ("patches trained on", "{:,.0f}"),
    "epochs": ("epochs", "{:.0f}"),
    "minutes": ("minutes", "{:.0f}"),
    "runs": ("runs", "{}"),
}


def training(rows: list[dict] | None = None) -> Table:
    """The recorded runs at full size of the notebook that trained the net that ships.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default. Those of the newest code count that trained on
        Chars74K and kept their weights, one a seed.
    """
    rows = chosen(rows, claim="charnet-baseline", dataset="chars74k", saved=True)
    runs = [row | {"minutes": row["seconds"] / 60} for row in newest(newest_code(rows), "seed")]
    lines = [together(runs, *COLUMNS) | {"runs": len(runs)}] if runs else []
    sizes, drawn = (
        " or ".join(f"{n:,}" for n in sorted({run[key] for run in runs}))
        for key in ("test_size", "drawn_size")
    )
    sure = widest(
        (run[key], counted)
        for run in runs
        for key, counted in (
            ("accuracy", run["test_size"]), ("accuracy_good", GOOD),
            ("accuracy_drawn", run["drawn_size"]),
        )
    )  # fmt: skip
    told = f"{sizes} characters of Chars74K's test split, {GOOD} of them GoodImg; {drawn} drawn"
    caption = f"{told}; {sure}; {hardware(runs)}"
    return show(lines, COLUMNS, to_be_made(RUN_02), caption)
