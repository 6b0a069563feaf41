"""An assignment in the form of otter-grader: a notebook and tests for students, tests for grading.

Each part of a question is one test case. ``student/`` is handed out; ``autograder/`` is what
``otter generate`` takes.
"""

from __future__ import annotations

import ast
import copy
import shutil
from pathlib import Path

import nbformat
from nbgrader.utils import is_grade, is_solution

from cpnb.course.masters import Assignment, grade_id, release, sheet

CHECK = 'grader.check("{}")'
START = "import otter\n\ngrader = otter.Notebook()\n\n"
TEST_FILE = '''"""Tests of the question {name}."""

from otter.test_files import test_case

OK_FORMAT = False
name = {name!r}
points = {points!r}
CODE = {code!r}
PARTS = []  # all of one run: otter loads this file anew for each check


def message(number, env):
    if not PARTS:
        names = dict(env)
        exec(CODE, names)
        PARTS.extend(names["marks"].parts)
    return PARTS[number]["message"]

'''
TEST_CASE = """
@test_case(name={goal!r}, points={points!r}, hidden={hidden!r})
def test_{number}(env):
    told = message({number}, env)
    assert not told, told

"""


def export(assignment: Assignment, folder: Path) -> None:
    """Write ``student/`` and ``autograder/`` of an assignment, in place of what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    for_students, full = release(assignment.master), sheet(assignment.master)
    visible, tests = _tests(for_students), _tests(full)
    for name, code in tests.items():
        shown = len(parts(visible[name]))
        _write(folder / "student" / "tests", name, visible[name], shown)
        _write(folder / "autograder" / "tests", name, code, shown)
    nbformat.write(_notebook(for_students), folder / "student" / f"{assignment.name}.ipynb")


def _tests(notebook) -> dict[str, str]:
    """By question, the code of its test cell without the marks at its end."""
    cells = [cell for cell in notebook.cells if is_grade(cell) and not is_solution(cell)]
    return {_question(cell): cell.source.rstrip().removesuffix("\nmarks") for cell in cells}


def _question(cell) -> str:
    return grade_id(cell).removeprefix("test-")


def parts(code: str) -> list[tuple[float, str]]:
    """Points and goal of the parts of a test cell, read off its text."""
    found = []
    for node in ast.walk(ast.parse(code)):
        for item in getattr(node, "items", []):
            call = item.context_expr
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "marks.part":
                found.append((node.lineno, *(ast.literal_eval(a) for a in call.args)))
    return [(points, goal) for _, points, goal in sorted(found)]


def _write(folder: Path, name: str, code: str, shown: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    told = parts(code)
    text = TEST_FILE.format(name=name, points=sum(points for points, _ in told), code=code)
    for number, (points, goal) in enumerate(told):
        hidden = number >= shown
        text += TEST_CASE.format(number=number, goal=goal, points=points, hidden=hidden)
    (folder / f"{name}.py").write_text(text.rstrip() + "\n", encoding="utf-8")


def _notebook(notebook):
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if is_grade(cell) and not is_solution(cell):
            cell.source = CHECK.format(_question(cell))
        elif grade_id(cell) == "setup":
            cell.source = START + cell.source
        cell.metadata.pop("nbgrader", None)
    return notebook
