"""What the tests of an assignment are written in: points part by part, and why one was lost.

A test cell gives points for each part that holds and ends with the `Marks` themselves, which show
as a table to the student and as a number to nbgrader. `answers` has what it compares with.
"""

from __future__ import annotations

import html
import os
from contextlib import contextmanager

MIME = "application/vnd.cpnb.marks+json"
LONGEST = 300  # characters of a message: a student's exception may be long


class WrongAnswer(AssertionError):
    """Why a part of a question does not hold, in words for the student."""


def grading() -> bool:
    """Whether this is the grading of a submission, not a student's own run or validation."""
    return os.environ.get("NBGRADER_EXECUTION") == "autograde"


class Marks:
    """The points of one question.

    Parts that students do not see are left out of a release; a run of it shows full marks once all
    parts that are there hold. When a submission is graded the parts must add up to ``points``.
    """

    def __init__(self, points: float):
        self.points = float(points)
        self.parts = []

    @contextmanager
    def part(self, points: float, goal: str):
        """Give ``points`` if the block ends without an exception; else note what went wrong."""
        message = ""
        try:
            yield
        except WrongAnswer as wrong:
            message = str(wrong)
        except NotImplementedError:  # of a function that the test calls past the adapter
            message = "not answered yet"
        except (Exception, SystemExit) as error:  # of the student's code: costs this part only
            message = f"your code stopped with {type(error).__name__}: {error}"
        self.parts.append({
            "goal": goal,
            "of": float(points),
            "points": 0.0 if message else float(points),
            "message": message[:LONGEST],
        })  # fmt: skip

    def total(self) -> float:
        """Points so far; of a release, whose hidden parts are missing, all once nothing fails."""
        told = sum(part["of"] for part in self.parts)
        if grading() and told != self.points:
            raise ValueError(f"parts of {told:g} points in a question of {self.points:g}")
        lost = any(part["message"] for part in self.parts)
        return sum(part["points"] for part in self.parts) if grading() or lost else self.points

    def _repr_mimebundle_(self, include=None, exclude=None):
        receipt = {"points": self.total(), "of": self.points, "parts": self.parts}
        return {"text/plain": str(self.total()), "text/html": self._table(), MIME: receipt}

    def _table(self) -> str:
        rows = [
            f"<tr><td>{'✗' if part['message'] else '✓'}</td>"
            f"<td>{part['points']:g} / {part['of']:g}</td>"
            f"<td style='text-align:left'>{html.escape(part['goal'])}</td>"
            f"<td style='text-align:left'>{html.escape(part['message'])}</td></tr>"
            for part in self.parts
        ]
        unseen = self.points - sum(part["of"] for part in self.parts)
        more = f"{unseen:g} more points are for tests that you do not see." if unseen else ""
        return f"<table>{''.join(rows)}</table><p>{more}</p>"


def demand(condition, message: str) -> None:
    """Give up the part with this message unless the condition holds."""
    if not condition:
        raise WrongAnswer(message)
