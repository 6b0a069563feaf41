"""One submission, from notebook to points: laid on the assignment's sheet, executed, read off."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

import nbformat
from nbgrader.preprocessors import ClearOutput, IgnorePattern, LimitOutput
from nbgrader.utils import determine_grade, is_grade, is_solution
from traitlets.config import Config

from cpnb.course.execute import Execute
from cpnb.course.masters import Assignment, assignments, grade_id, lay, questions, sheet, written
from cpnb.course.steps import Receipts, marks_of

LARGEST = 50 << 20  # bytes of a submission
VERSION = 1  # of what is written; older results are graded anew


class NotASubmissionError(ValueError):
    """A file that cannot be graded as this assignment; the message says why."""


def key(path: Path, assignment: Assignment) -> str:
    """What a result depends on: the submission, the master, the version of this code."""
    digest = hashlib.sha256(f"{VERSION}".encode())
    for file in (path, assignment.path):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def grade(path: Path, assignment: Assignment, *, cell_seconds=30, notebook_seconds=120,
          memory=4 << 30) -> dict:  # fmt: skip
    """Grade one notebook.

    Parameters
    ----------
    path : Path
        The submission, by whatever file name.
    assignment : Assignment
    cell_seconds, notebook_seconds : int
        Limits on the time of each cell, and of all together.
    memory : int
        Bytes for all processes of the submission.

    Returns
    -------
    dict
        points and of (tested questions), written_of, questions (name to points, of, parts, error),
        written (name to answer), answers (name to code), notes, jail, seconds. What cannot be
        graded has no points, and a note that says why.
    """
    start, known = time.monotonic(), {"key": key(path, assignment)}
    try:
        notebook, notes = lay(_read(path, assignment), sheet(assignment.master))
    except NotASubmissionError as problem:
        return ungraded(assignment, str(problem)) | known
    config = Config()
    config.Execute.timeout = cell_seconds
    config.Execute.notebook_seconds = notebook_seconds
    config.Execute.memory = memory
    config.IgnorePattern.pattern = r"(?s).*"  # a warning on stderr costs no points
    resources = {"unique_key": assignment.name, "nbgrader": {}, "metadata": {}}
    with _environment(NBGRADER_EXECUTION="autograde"):
        for step in (ClearOutput, Execute, IgnorePattern, LimitOutput, Receipts):
            notebook, resources = step(config=config).preprocess(notebook, resources)
    told = {"notes": notes, "jail": resources.get("jail", {})}
    told |= {"seconds": round(time.monotonic() - start, 1)}
    return ungraded(assignment, "") | known | _read_off(notebook) | told


@contextlib.contextmanager
def _environment(**variables):
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _read(path: Path, assignment: Assignment):
    if path.stat().st_size > LARGEST:
        raise NotASubmissionError(f"the file is larger than {LARGEST >> 20} MiB")
    try:
        notebook = nbformat.from_dict(json.loads(path.read_text(encoding="utf-8")))
        names = {grade_id(cell) for cell in notebook.cells}
        assert isinstance(notebook.cells, list)
    except (ValueError, AttributeError, TypeError, AssertionError):
        raise NotASubmissionError("the file is no notebook") from None
    if names & _tests(assignment):
        return notebook
    others = [a.name for a in assignments(assignment.path.parents[2]) if names & _tests(a)]
    told = f"this is a notebook of {others[0]}" if others else "none of its cells is known"
    raise NotASubmissionError(f"not a notebook of {assignment.name}: {told}")


def _tests(assignment: Assignment) -> set:
    return {grade_id(c) for c in assignment.master.cells if is_grade(c) or is_solution(c)} - {None}


def ungraded(assignment: Assignment, why: str) -> dict:
    """The result of what cannot be graded: no points, and why; it will be tried again."""
    on = sheet(assignment.master)
    points, read = questions(on), written(on)
    tested = {name: of for name, of in points.items() if name not in read}
    nothing = {"points": 0.0, "parts": [], "error": ""}
    return {
        "assignment": assignment.name,
        "key": "",
        "points": 0.0,
        "of": sum(tested.values()),
        "written_of": sum(points[name] for name in read),
        "questions": {name: nothing | {"of": of} for name, of in tested.items()},
        "written": {
            name: {"points": 0.0, "of": of, "answer": ""}
            for name, of in points.items()
            if name in read
        },
        "answers": {},
        "notes": [why],
        "jail": {},
        "seconds": 0.0,
    }


def _read_off(notebook) -> dict:
    """Points and messages of an executed notebook; a written answer has None until it is read."""
    found, read, answers, stopped = {}, {}, {}, {}
    for cell in notebook.cells:
        if is_grade(cell):
            points, of = determine_grade(cell)
        name = (grade_id(cell) or "").removeprefix("test-")
        if is_grade(cell) and is_solution(cell):
            read[name] = {"points": points, "of": of, "answer": cell.source}
        elif is_grade(cell):
            marks = marks_of(cell)
            parts = marks["parts"] if marks else []
            error = stopped.get(name, "") or _error(cell)
            found[name] = {"points": points, "of": of, "parts": parts, "error": error}
        elif is_solution(cell):
            answers[name], stopped[name] = cell.source, _error(cell)
    points = sum(question["points"] for question in found.values())
    return {"points": points, "questions": found, "written": read, "answers": answers}


def _error(cell) -> str:
    told = [f"{out.ename}: {out.evalue}" for out in cell.outputs if out.output_type == "error"]
    return told[0][:300] if told else ""
