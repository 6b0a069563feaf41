"""What students get of each assignment, built from its master; and the tests of the tests.

    python -m cpnb assignments            # build release/ and otter/, then check everything
    python -m cpnb assignments --build    # build only

The check: every master gets all its points, every untouched release none and runs to its end,
every wrong answer that ships loses exactly its points, and nothing that students get shows a
solution or a hidden test.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from nbgrader.converters import GenerateAssignment
from nbgrader.coursedir import CourseDirectory
from traitlets.config import PyFileConfigLoader

from cpnb.course.masters import Assignment, assignments, course_folder, leaks
from cpnb.course.otter import export
from cpnb.course.wrong import master_problems, release_problems, wrong_answers, wrong_problems
from cpnb.runs.progress import progress_bar

FOR_STUDENTS = ("STUDENT.md", "AGENTS.md")


def beside(course: Path, name: str) -> Path:
    """A file of the course, or the one that ships if the course has none of its own."""
    return course / name if (course / name).is_file() else course_folder() / name


def converter(kind, course: Path, assignment: str, **directories: str):
    """One of nbgrader's converters, with the configuration of the course; `start` runs it."""
    path = beside(course, "nbgrader_config.py")
    config = PyFileConfigLoader(path.name, str(path.parent)).load_config()
    config.CourseDirectory.update({"root": str(course), "assignment_id": assignment, **directories})
    return kind(coursedir=CourseDirectory(config=config), config=config, force=True)


def build(course: Path, release: Path, otter: Path) -> None:
    """Write what students get, by nbgrader, and the export for otter-grader."""
    for assignment in assignments(course):
        generate = converter(
            GenerateAssignment, course, assignment.name, release_directory=str(release)
        )
        generate.no_database = True  # nbgrader's gradebook is for its own grading
        generate.config.SaveCells.enabled = False
        generate.start()
        export(assignment, otter / assignment.name)
        for folder in (release / assignment.name, otter / assignment.name / "student"):
            for name in FOR_STUDENTS:
                shutil.copy(beside(course, name), folder)


def leak_problems(assignment: Assignment, *folders: Path) -> list[str]:
    """Secret lines in any file below the folders."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    # In a notebook's JSON quotation marks and backslashes are escaped.
    plain = {path: text.replace('\\"', '"').replace("\\\\", "\\") for path, text in texts.items()}
    return [
        f"{path.name} shows: {line}"
        for path, text in texts.items()
        for line in leaks(text + plain[path], assignment.master)
    ]


def tasks(course: Path) -> list[tuple]:
    """What there is to be graded: (function, assignment, further arguments), one notebook each."""
    found = []
    for assignment in assignments(course):
        found += [(master_problems, assignment), (release_problems, assignment)]
        rounds = range(max(map(len, wrong_answers(assignment).values())))
        found += [(wrong_problems, assignment, [number]) for number in rounds]
    return found


def _problems(function, assignment, *arguments) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        return function(assignment, Path(folder), *arguments)


def check(chosen: list[tuple], jobs: int | None = None) -> list[str]:
    """Problems that these `tasks` find, some at a time."""
    jobs = jobs or os.cpu_count()
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(_problems, *task) for task in chosen]
        bar = progress_bar(as_completed(waiting), total=len(waiting), unit="notebook")
        return sorted(problem for done in bar for problem in done.result())


def main(arguments=None) -> int:
    """Command line of this module; see the module's description."""
    parser = argparse.ArgumentParser(prog="python -m cpnb assignments", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--course", type=Path, help="folder of the course (notebooks/assignments)")
    parser.add_argument("--build", action="store_true", help="build, and do not grade anything")
    parser.add_argument("--jobs", type=int, help="notebooks side by side (the number of cores)")
    options = parser.parse_args(arguments)
    course = (options.course or course_folder()).resolve()
    release, otter = course / "release", course / "otter"
    build(course, release, otter)
    problems = [
        problem
        for assignment in assignments(course)
        for problem in leak_problems(
            assignment, release / assignment.name, otter / assignment.name / "student"
        )
    ]
    problems += [] if options.build else check(tasks(course), options.jobs)
    for problem in problems:
        print(problem, file=sys.stderr)
    number = sum(len(w) for a in assignments(course) for w in wrong_answers(a).values())
    print(
        f"{len(assignments(course))} assignments, {number} wrong answers: {len(problems)} problems"
    )
    print(f"for students: {release}/NAME/; for otter-grader: {otter}/NAME/")
    return 1 if problems else 0
