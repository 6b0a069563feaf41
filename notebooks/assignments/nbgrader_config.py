"""nbgrader's configuration for this course. Each line meets something that nobody expects."""

from nbconvert.preprocessors import ClearMetadataPreprocessor, CSSHTMLHeaderPreprocessor
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    ClearHiddenTests,
    ClearOutput,
    GetGrades,
    IgnorePattern,
    LimitOutput,
    OverwriteCells,
    OverwriteKernelspec,
    SaveAutoGrades,
)

from cpnb.course.execute import Execute
from cpnb.course.steps import Deduplicate, MarksOnly, Receipts

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "cpnb"
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}

# A warning on stderr would cost a test cell all its points.
c.IgnorePattern.enabled = True
c.IgnorePattern.pattern = r"(?s).*"
# Limits on a cell, on a notebook (seconds), on memory (bytes); a lost kernel is replaced.
c.Execute.timeout = 30
c.Execute.notebook_seconds = 120
c.Execute.memory = 4 << 30
# Test cells that a student deleted come back; ones that were copied do not stop the grading.
c.OverwriteCells.add_missing_cells = True
c.Autograde.sanitize_preprocessors = [
    ClearOutput,
    Deduplicate,
    OverwriteKernelspec,
    OverwriteCells,
    CheckCellMetadata,
]
# Receipts: a test cell without a number at its end, or with one that is too large, negative or no
# number, would get full marks or stop the grading.
c.Autograde.autograde_preprocessors = [
    Execute,
    IgnorePattern,
    ClearMetadataPreprocessor,
    LimitOutput,
    Receipts,
    SaveAutoGrades,
    AssignLatePenalties,
    CheckCellMetadata,
]
# Feedback would show hidden tests, and whatever a student's cells print of them.
c.GenerateFeedback.preprocessors = [
    GetGrades,
    ClearHiddenTests,
    MarksOnly,
    CSSHTMLHeaderPreprocessor,
]
