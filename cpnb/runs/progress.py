"""Bars of long work: which outputs are bars, and how a bar inside a notebook reaches the terminal.

A notebook that runs a grid shows a bar over its points. When the notebook itself is run from a
terminal nobody sees that bar, so it is written as text then, and shown below the bar over cells.
"""

from __future__ import annotations

import os
import re
import sys

import tqdm.auto
import tqdm.std

AS_TEXT = "CPNB_BARS_AS_TEXT"  # set in kernels that are started to run a notebook
# "epoch 3:  40%|####  | 4/10 [00:02<00:03]" or, without a total, "17it [00:02, 8.1it/s]"
PROGRESS_BAR = re.compile(r"\d+%\|.*\||\d+\S* \[\d\d:\d\d")
TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def lines_of(text: str) -> list[str]:
    """Lines of what was written to a terminal, empty ones and control codes left out."""
    lines = re.split(r"[\r\n]", TERMINAL_CODE.sub("", text))
    return [line.strip() for line in lines if line.strip()]


def in_notebook() -> bool:
    """Whether this is a notebook's kernel, where a bar is a widget that nobody takes away."""
    loaded = sys.modules.get("IPython")  # which a kernel has loaded
    return loaded is not None and loaded.get_ipython() is not None


def progress_bar(*arguments, **options):
    """A tqdm bar: a widget in an open notebook, text in a terminal and in a run of a notebook."""
    kind = tqdm.std if os.environ.get(AS_TEXT) else tqdm.auto
    return kind.tqdm(*arguments, **options)


class Relay:
    """A file for the stderr of a running notebook: shows its newest bar, and nothing else of it."""

    def __init__(self):
        self._line = None

    def write(self, text: str) -> None:
        """Show the last bar in the text, in place of the one before."""
        bars = [line for line in lines_of(text) if PROGRESS_BAR.search(line)]
        if not bars:
            return
        if self._line is None:
            self._line = tqdm.auto.tqdm(bar_format="{desc}", leave=False)
        self._line.set_description_str(bars[-1])

    def flush(self) -> None:
        """For those who take it for a file."""

    def close(self) -> None:
        """Take the last bar away."""
        if self._line is not None:
            self._line.close()
