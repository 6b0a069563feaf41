"""Grading of a class: points into one CSV, a page of feedback for each student.

    python -m cpnb grade submitted/ --assignment 2
    python -m cpnb grade one_notebook.ipynb --assignment 2      # JSON, no folders needed

Runs the code of strangers: see `cpnb.course.jail` for what keeps it from doing harm. Each
submission is graded by a process of its own; what has been graded before is not graded again.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from cpnb.course.feedback import write_page
from cpnb.course.grading import grade, key, ungraded
from cpnb.course.masters import course_folder, find_assignment
from cpnb.runs.progress import progress_bar

SLACK = 60  # seconds beyond the notebook's for starting and ending


@dataclass(frozen=True)
class Submission:
    """A student's notebook, and where its results go."""

    student: str
    path: Path
    out: Path

    @property
    def result(self) -> Path:
        """The JSON file of points and messages."""
        return self.out / f"{self.student}.json"


def find_submissions(folder: Path, assignment, out: Path) -> list[Submission]:
    """The submissions in a folder, one a student.

    Either nbgrader's tree (STUDENT/ASSIGNMENT/*.ipynb), a folder a student, or a notebook a
    student. Of several notebooks in one folder the one of the assignment's name counts, else the
    newest; so a renamed notebook is found.
    """
    found = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        inside = entry / assignment.name if (entry / assignment.name).is_dir() else entry
        path = _notebook_in(inside, assignment.name) if entry.is_dir() else entry
        if path is not None and path.suffix == ".ipynb":
            student = entry.name if entry.is_dir() else entry.stem
            found[student] = Submission(student, path, out)
    return list(found.values())


def _notebook_in(folder: Path, name: str) -> Path | None:
    notebooks = [p for p in folder.glob("*.ipynb") if p.is_file() and not p.is_symlink()]
    ranked = sorted(notebooks, key=lambda p: (p.stem == name, p.stat().st_mtime))
    return ranked[-1] if ranked else None


def grade_all(submissions, assignment, options) -> list[dict]:
    """Results of all submissions, graded side by side; each is written as soon as it is there."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([grade.__module__])  # imported once, not by each process
    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = {
            pool.submit(_graded, one, assignment, options, context): one for one in submissions
        }
        bar = progress_bar(as_completed(waiting), total=len(waiting), unit="notebook")
        results = {waiting[done].student: done.result() for done in bar}
    return [results[one.student] for one in submissions]


def _graded(submission: Submission, assignment, options, context) -> dict:
    done = _earlier(submission.result)
    if options.force or done is None or done["key"] != key(submission.path, assignment):
        done = _in_a_process(submission.path, assignment, options, context)
        done |= {"student": submission.student, "file": submission.path.name}
        temporary = submission.result.with_suffix(".tmp")
        temporary.write_text(json.dumps(done, indent=1))
        os.replace(temporary, submission.result)
    write_page(done, assignment, submission.out / "feedback" / f"{submission.student}.html")
    return done


def _earlier(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _limits(options) -> dict:
    names = ("cell_seconds", "notebook_seconds", "memory")
    return {name: getattr(options, name) for name in names}


def _in_a_process(path: Path, assignment, options, context) -> dict:
    """Grade in a process of its own, which is killed if it does not end in time."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, path, assignment, _limits(options)))
    process.start()
    sender.close()
    seconds = options.notebook_seconds + SLACK
    try:
        if receiver.poll(seconds):
            return receiver.recv()
        why = f"the grading did not end within {seconds} s"
    except EOFError:
        why = "the grading process ended without a result"
    finally:
        process.kill()
        process.join()
    return ungraded(assignment, why)


def _send(sender, path: Path, assignment, limits: dict) -> None:
    try:
        sender.send(grade(path, assignment, **limits))
    except Exception as error:
        sender.send(ungraded(assignment, f"the grading failed: {type(error).__name__}: {error}"))


def write_table(results: list[dict], path: Path) -> None:
    """Points by student and question; written answers are left blank until somebody reads them."""
    first = results[0]
    tested, read = list(first["questions"]), list(first["written"])
    of = {f"{name} ({first['questions'][name]['of']:g})": name for name in tested}
    of_read = {f"{name} ({first['written'][name]['of']:g})": name for name in read}
    head = ["student", f"tests ({first['of']:g})", *of, *of_read, "notes", "seconds"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(head)
        for result in results:
            points = [result["questions"][name]["points"] for name in of.values()]
            by_hand = [result["written"][name]["points"] for name in of_read.values()]
            row = [result["student"], result["points"], *points, *by_hand]
            table.writerow([*map(_cell, row), "; ".join(result["notes"]), result["seconds"]])


def _cell(value) -> str:
    """A number or a name; a name must not become a formula in a spreadsheet."""
    text = "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cpnb grade", description="Grade a class.")
    parser.add_argument("submitted", type=Path, help="folder of submissions, or one notebook")
    parser.add_argument("--assignment", required=True, help="its number or name")
    parser.add_argument("--course", type=Path, help="folder of the course (notebooks/assignments)")
    parser.add_argument("--out", type=Path, help="folder of the results (graded/ in the course)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="notebooks side by side")
    parser.add_argument("--cell-seconds", type=int, default=30, help="limit on a cell (30)")
    parser.add_argument("--notebook-seconds", type=int, default=120, help="on a notebook (120)")
    parser.add_argument("--memory", type=int, default=4 << 30, help="bytes a notebook (4 GiB)")
    parser.add_argument("--force", action="store_true", help="grade again what is graded")
    return parser


def main(arguments=None) -> int:
    """Command line of this module; see the module's description."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        course = options.course or course_folder()
        assignment = find_assignment(options.assignment, course)
        if not options.submitted.exists():
            raise ValueError(f"there is no {options.submitted}")
    except ValueError as error:
        parser.error(str(error))
    if options.submitted.is_file():
        print(json.dumps(grade(options.submitted, assignment, **_limits(options)), indent=1))
        return 0
    out = (options.out or course / "graded") / assignment.name
    (out / "feedback").mkdir(parents=True, exist_ok=True)
    submissions = find_submissions(options.submitted, assignment, out)
    if not submissions:
        parser.error(f"no notebooks in {options.submitted}")
    results = grade_all(submissions, assignment, options)
    write_table(results, out / "points.csv")
    print(f"{len(results)} graded: {out / 'points.csv'}, feedback/ beside it")
    return _tell_doors(results)


def _tell_doors(results) -> int:
    """Say which protections this machine does not have."""
    doors = {name: told for result in results for name, told in result.get("jail", {}).items()}
    for name, told in doors.items():
        if told != "yes":
            print(f"warning: students' code was not kept from {name} ({told})", file=sys.stderr)
    return 0
