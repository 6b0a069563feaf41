"""Assignments: their master notebooks, what students get of one, and what a submission is laid on.

An assignment has one source, ``source/NAME/NAME.ipynb``, with solutions and hidden tests in marked
regions. Names begin with the number of the assignment.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearHiddenTests,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
)
from nbgrader.utils import is_grade, is_locked, is_solution
from traitlets.config import Config

from cpnb.runs.places import repository

STUB = "raise NotImplementedError"
REGION = re.compile(r"### BEGIN (SOLUTION|HIDDEN TESTS)\n(.*?)^\s*### END \1", re.M | re.S)
SHORTEST_SECRET = 16  # characters of a line that gives something away


@dataclass(frozen=True)
class Assignment:
    """One assignment of a course: its name, as "2_four_convolutions", and its master."""

    name: str
    path: Path

    @property
    def master(self):
        """The master notebook, with solutions and hidden tests."""
        return nbformat.read(self.path, as_version=4)


def course_folder() -> Path:
    """Where the course lies that ships with the project."""
    return repository() / "notebooks" / "assignments"


def assignments(course: Path | None = None) -> list[Assignment]:
    """All assignments of a course, in order."""
    source = (course or course_folder()) / "source"
    found = [Assignment(f.name, f / f"{f.name}.ipynb") for f in sorted(source.glob("[0-9]*"))]
    return [assignment for assignment in found if assignment.path.is_file()]


def find_assignment(given: str, course: Path | None = None) -> Assignment:
    """The assignment of a number or name; ValueError names those that exist."""
    known = {assignment.name: assignment for assignment in assignments(course)}
    for name, assignment in known.items():
        if given in (name, name.partition("_")[0]):
            return assignment
    raise ValueError(f"no assignment {given!r}; there are: {', '.join(known) or 'none'}")


def _through(notebook, *steps):
    config = Config()
    config.ClearSolutions.code_stub = {"python": STUB}
    notebook, resources = copy.deepcopy(notebook), {}
    for step in steps:
        notebook, resources = step(config=config).preprocess(notebook, resources)
    return notebook


def sheet(master):
    """The master without solutions, but with all tests: what a submission is laid on."""
    return _through(
        master, LockCells, ClearSolutions, ClearOutput, CheckCellMetadata, ComputeChecksums
    )


def release(master):
    """What students get."""
    return _through(sheet(master), ClearHiddenTests, ComputeChecksums)


def grade_id(cell) -> str | None:
    """The name of a cell that nbgrader knows."""
    name = cell.metadata.get("nbgrader", {}).get("grade_id")
    return name if isinstance(name, str) else None


def questions(notebook) -> dict:
    """Points by question: the tested ones, "test-" left out, and the written ones."""
    graded = [cell for cell in notebook.cells if is_grade(cell)]
    return {
        grade_id(cell).removeprefix("test-"): float(cell.metadata.nbgrader["points"])
        for cell in graded
    }


def written(notebook) -> set:
    """Questions that a person has to read."""
    return {grade_id(cell) for cell in notebook.cells if is_grade(cell) and is_solution(cell)}


def lay(submission, on) -> tuple:
    """The student's answers on the sheet of the assignment, and notes of what was odd.

    Text, setup and tests are the sheet's, whatever was done to them. Of an answer that stands there
    twice the last one counts. Other cells with code stay behind the cell that they followed.
    """
    known = {grade_id(cell): cell for cell in on.cells if grade_id(cell)}
    answers, extras, notes, last = {}, {}, [], None
    for cell in submission.cells:
        name = grade_id(cell)
        if name not in known:
            if cell.cell_type == "code":
                extras.setdefault(last, []).append(_plain(cell))
            continue
        if is_solution(known[name]):
            if name in answers:
                notes.append(f"{name}: answered twice, the last answer counts")
            answers[name] = cell
        elif is_locked(known[name]) and not _unchanged(_text(cell), known[name]):
            notes.append(f"{name}: was changed; the original was used")
        last = name
    missing = [name for name in known if name not in {grade_id(c) for c in submission.cells}]
    notes += [f"{name}: was deleted; the original was used" for name in missing]
    laid, cells = copy.deepcopy(on), list(extras.get(None, []))
    for cell in laid.cells:
        name = grade_id(cell)
        if name in answers:
            cell.source = _text(answers[name])
        cells += [cell] if name else []
        cells += extras.get(name, []) if name else []
    laid.cells = cells
    return laid, notes


def shown(cell) -> str:
    """A cell's text without solutions and hidden tests."""
    return REGION.sub("", cell.source)


def _unchanged(text: str, cell) -> bool:
    return _lines_of(text) in (_lines_of(shown(cell)), _lines_of(cell.source))


def _lines_of(text: str) -> list:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _text(cell) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(map(str, source))


def _plain(cell):
    return nbformat.v4.new_code_cell(_text(cell))


def secrets(master) -> set:
    """Lines of solutions and hidden tests that stand nowhere else in the master."""
    regions = [text for cell in master.cells for _, text in REGION.findall(cell.source)]
    open_text = "\n".join(shown(cell) for cell in master.cells)
    return {line for text in regions for line in _telling(text) if line not in open_text}


def _telling(text: str) -> set:
    lines = {line.strip() for line in text.splitlines()}
    return {line for line in lines if len(line) >= SHORTEST_SECRET}


def leaks(text: str, master) -> list[str]:
    """Secret lines of a master that stand in a text."""
    return sorted(line for line in secrets(master) if line in text)
