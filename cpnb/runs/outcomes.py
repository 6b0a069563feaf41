"""What a run comes to: finished, or failed with a message."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class NotebookError(RuntimeError):
    """A notebook that failed; the message names it, the cell and the exception."""


class GridError(RuntimeError):
    """Points of a grid that failed, after all the others have run.

    Attributes
    ----------
    runs : list of Run or None
        One entry a point, in order of the grid; None where the point failed.
    failures : list of (dict, str)
        Parameters and message of each failed point.
    """

    def __init__(self, message, runs=(), failures=()):
        super().__init__(message)
        self.runs, self.failures = list(runs), list(failures)


@dataclass(frozen=True)
class Run:
    """A finished run: executed notebook, parameters given, seconds, and if it was there before."""

    output: Path
    parameters: dict
    seconds: float
    skipped: bool
