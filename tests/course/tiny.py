"""A course of two tiny assignments, and submissions to it that mean no good."""

import copy

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from cpnb.course.masters import find_assignment, grade_id, release

SETUP = "from cpnb.course.marks import Marks, demand"  # no adapter: it would import PyTorch
ANSWER = (
    "def {0}(x):\n    ### BEGIN SOLUTION\n    return {1} * x  # the secret\n    ### END SOLUTION"
)
TESTS = """marks = Marks(4)
with marks.part(2, "of one"):
    demand({0}(1) == {1}, "{0} of 1 is {1}")
### BEGIN HIDDEN TESTS
with marks.part(2, "of other numbers"):
    demand({0}(17) == {1} * 17, "{0} of 17 is wrong")
### END HIDDEN TESTS
marks"""


def _known(cell, name, **what):
    plain = {"grade": False, "locked": False, "solution": False, "task": False}
    about = plain | what | {"grade_id": name, "cell_type": cell.cell_type, "schema_version": 3}
    cell.metadata["nbgrader"] = about
    return cell


def _question(name, factor):
    return [
        new_markdown_cell(f"## {name}"),
        _known(new_code_cell(ANSWER.format(name, factor)), name, solution=True),
        _known(
            new_code_cell(TESTS.format(name, factor)),
            f"test-{name}",
            grade=True,
            locked=True,
            points=4,
        ),
    ]


def write_course(folder):
    """A course with the assignments 1_tiny (double, triple, why) and 2_other (half)."""
    why = new_markdown_cell("### BEGIN SOLUTION\nBecause.\n### END SOLUTION")
    tiny = [*_question("double", 2), *_question("triple", 3)]
    tiny.append(_known(why, "why", solution=True, grade=True, points=2))
    for name, questions in {"1_tiny": tiny, "2_other": _question("half", 0.5)}.items():
        setup = _known(new_code_cell(SETUP), "setup", locked=True)
        notebook = new_notebook(cells=[setup, *questions])
        notebook.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "3",
            "language": "python",
        }
        place = folder / "source" / name
        place.mkdir(parents=True)
        nbformat.write(notebook, place / f"{name}.ipynb")
    return find_assignment("1", folder)


def answered(assignment, **answers):
    """The release with these answers; right ones for the questions that are not named."""
    right = {
        "double": "def double(x):\n    return 2 * x",
        "triple": "def triple(x):\n    return 3 * x",
    }
    notebook = release(assignment.master)
    for cell in notebook.cells:
        cell.source = (right | answers).get(grade_id(cell), cell.source)
    return notebook


def changed(notebook, change):
    """A copy with the list of cells changed."""
    notebook = copy.deepcopy(notebook)
    notebook.cells = change(notebook.cells)
    return notebook
