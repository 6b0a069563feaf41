"""nbgrader itself, with the configuration that ships: what it does by default, and no longer."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from tiny import answered, changed, write_course

from cpnb.course.build import converter
from cpnb.course.masters import grade_id

WARNS = "import sys\ndef double(x):\n    print('42%|####', file=sys.stderr)\n    return 2 * x"
SLOW = "import time\ndef double(x):\n    time.sleep(60)"
SILENT = "get_ipython().input_transformers_cleanup.append(lambda lines: [])"
MORE = "from cpnb.course.marks import Marks\nMarks.total = lambda self: 400.0"
LESS = "from cpnb.course.marks import Marks\nMarks.total = lambda self: -1.0"
WORDS = (
    "from cpnb.course.marks import Marks\n"
    "Marks._repr_mimebundle_ = lambda *_, **__: {'text/plain': 'all'}"
)
TELLS = "def double(x):\n    print('FOUND', 'OUT')\n    return x"


def _without(name):
    return lambda cells: [cell for cell in cells if grade_id(cell) != name]


def _twice(cells):
    return [copied for cell in cells for copied in (cell, nbformat.from_dict(dict(cell)))]


def submissions(assignment):
    good = answered(assignment)
    code = {"warns": WARNS, "slow": SLOW, "silent": SILENT, "more": MORE, "tells": TELLS}
    found = {name: answered(assignment, double=text) for name, text in code.items()}
    found |= {"less": answered(assignment, double=LESS, triple=WORDS)}
    return found | {"cells": changed(changed(good, _without("test-double")), _twice)}


DESERVED = {
    "warns": 8,  # not 4: a test cell that writes to stderr scored nothing
    "slow": 4,  # stopped, and the rest goes on
    "silent": 0,  # not 8: a test cell without a result had full marks
    "more": 0,  # not a grading that stops: more than the maximum raised
    "less": 0,  # not 8: a negative number had full marks, and so had what is no number
    "tells": 4,
    "cells": 8,  # the deleted test came back, and cells that stand there twice broke nothing
}


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def graded(tmp_path_factory, monkeypatch_module):
    course = tmp_path_factory.mktemp("course")
    assignment = write_course(course)
    # nbgrader calls alembic, which need not be where a shell looks for it.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    monkeypatch_module.setenv("PATH", path)
    converter(GenerateAssignment, course, assignment.name).start()
    for student, notebook in submissions(assignment).items():
        folder = course / "submitted" / student / assignment.name
        folder.mkdir(parents=True)
        nbformat.write(notebook, folder / f"{assignment.name}.ipynb")
    autograde = converter(Autograde, course, assignment.name)
    autograde.config.Execute.timeout = 3
    autograde.start()
    converter(GenerateFeedback, course, assignment.name).start()
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        marks = {s.student.id: s.score for s in book.assignment_submissions(assignment.name)}
    return course, assignment, marks


def test_scores_are_those_deserved(graded):
    assert graded[2] == DESERVED


def test_feedback_shows_marks_but_no_hidden_test(graded):
    course, assignment, _ = graded
    place = course / "feedback" / "tells" / assignment.name / f"{assignment.name}.html"
    page = place.read_text()
    assert "double of 1 is 2" in page
    assert "HIDDEN" not in page and "* 17" not in page and "FOUND OUT" not in page
