"""What the tests of an assignment are written in: points part by part, and why one was lost.

A test cell asks for the student's function by name through one adapter, `Answers`, gives points for
each part that holds, and ends with the `Marks` themselves, which show as a table to the student and
as a number to nbgrader.
"""

from __future__ import annotations

import copy
import html
import os
from contextlib import contextmanager

import torch

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


class Answers:
    """The adapter between tests and a student's notebook: ``ask.outer`` is the student's `outer`.

    Parameters
    ----------
    names : dict
        The notebook's ``globals()``; a function is looked up when it is called.
    """

    def __init__(self, names: dict):
        self._names = names

    def function(self, name: str):
        """The student's function itself, which may change what it is given."""
        found = self._names.get(name)
        demand(callable(found), f"there is no function {name}: did the cell that has it run?")
        return found

    def __getattr__(self, name: str):
        def call(*arguments, **options):
            function = self.function(name)
            given = copy.deepcopy((arguments, options))
            try:
                result = function(*given[0], **given[1])
            except NotImplementedError:
                raise WrongAnswer(f"{name} is not answered yet") from None
            if result is None:
                raise WrongAnswer(f"{name} returns nothing: is a return missing?")
            if not _same(given, (arguments, options)):
                raise WrongAnswer(f"{name} changes what it is given; work on a copy")
            return result

        return call


def _same(a, b) -> bool:
    """Whether two arguments have equal tensors in them; of modules, equal weights."""
    if isinstance(a, torch.nn.Module):
        return _same(a.state_dict(), b.state_dict())
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and bool(torch.equal(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return True


def demand(condition, message: str) -> None:
    """Give up the part with this message unless the condition holds."""
    if not condition:
        raise WrongAnswer(message)


def close(found, expected, within: float = 1e-10, mistakes: dict | None = None, what="the result"):
    """Demand a tensor or a number that is near the expected one.

    Parameters
    ----------
    found, expected : tensor or number
    within : float
        Largest ‖found − expected‖ / ‖expected‖.
    mistakes : dict of str to tensor or number, optional
        What a known mistake would give, by the words that name it.
    what : str
        What was computed, for the message.
    """
    expected = torch.as_tensor(expected)
    if not isinstance(found, torch.Tensor):
        wanted = "a tensor" if expected.ndim else "a number"
        demand(isinstance(found, int | float), f"{what} is of {type(found)}; it should be {wanted}")
        found = torch.as_tensor(found)
    found = found.detach()
    for words, wrong in (mistakes or {}).items():
        demand(not _near(found, torch.as_tensor(wrong), within), words)
    shapes = f"{what} has shape {tuple(found.shape)}; it should be {tuple(expected.shape)}"
    demand(found.shape == expected.shape, shapes)
    demand(bool(torch.isfinite(found.double()).all()), f"{what} has infinite or undefined entries")
    error = _distance(found, expected)
    told = f"{what} is off by a relative {error:.1e}; an error of at most {within:.0e} is expected"
    demand(error <= within, told)


def _distance(found, expected) -> float:
    scale = expected.double().norm().clamp_min(1e-300)
    return float((found.double() - expected.double()).norm() / scale)


def _near(found, wrong, within) -> bool:
    return found.shape == wrong.shape and _distance(found, wrong) <= within
