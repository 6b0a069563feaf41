"""Steps that nbgrader lacks: marks that count, feedback that is discreet, copied cells."""

from __future__ import annotations

import math

from nbformat.v4 import new_output
from nbgrader.preprocessors import DeduplicateIds, NbGraderPreprocessor
from nbgrader.utils import is_grade

from cpnb.course.marks import MIME


def failed(name: str, why: str):
    """The output of a cell that did not end by itself."""
    return new_output("error", ename=name, evalue=why, traceback=[f"{name}: {why}"])


class Receipts(NbGraderPreprocessor):
    """A test cell that does not end with `Marks` between 0 and its points gets none.

    nbgrader would give all points to a test cell without a result, or with one that is no number.
    """

    def preprocess_cell(self, cell, resources, cell_index):
        """Keep the marks of a test cell; without them, put an error in their place."""
        if cell.cell_type == "code" and is_grade(cell) and marks_of(cell) is None:
            errors = [out for out in cell.outputs if out.output_type == "error"]
            cell.outputs = errors or [failed("NoMarks", "the test cell did not end with its marks")]
        return cell, resources


def marks_of(cell) -> dict | None:
    """The marks a test cell ended with: points, of, parts; None if there are none, or odd ones."""
    results = [out for out in cell.outputs if out.output_type == "execute_result"]
    errors = [out for out in cell.outputs if out.output_type == "error"]
    try:
        (result,) = results
        marks = result["data"][MIME]
        points, most = float(marks["points"]), float(cell.metadata.nbgrader["points"])
        fits = float(result["data"]["text/plain"]) == points and marks["of"] == most
        parts = [(str(part["goal"]), float(part["points"])) for part in marks["parts"]]
    except (KeyError, TypeError, ValueError):
        return None
    honest = 0 <= points <= most and math.isclose(sum(p for _, p in parts), points)
    return marks if fits and honest and not errors else None


class MarksOnly(NbGraderPreprocessor):
    """For nbgrader's own feedback pages: of all outputs leaves those of the marks."""

    def preprocess_cell(self, cell, resources, cell_index):
        """Drop the outputs of a cell that are not marks."""
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if MIME in out.get("data", {})]
        return cell, resources


class Deduplicate(DeduplicateIds):
    """Of cells that stand there twice the last one counts; the others become plain cells.

    nbgrader leaves them without a name among the graded ones, which stops it when it adds cells
    that are missing.
    """

    def preprocess(self, nb, resources):
        """Take the empty rest of nbgrader's metadata away."""
        nb, resources = super().preprocess(nb, resources)
        for cell in nb.cells:
            if cell.metadata.get("nbgrader") == {}:
                del cell.metadata["nbgrader"]
        return nb, resources
