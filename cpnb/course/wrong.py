"""Tests of the tests: wrong answers that ship, each with the points it must lose.

``wrong/NAME.yaml`` has a list of wrong answers for each question of an assignment. As questions
stand alone, the first wrong answers of all questions are graded as one submission, then the second
ones, and so on: each must lose its own points, whatever is wrong around it.
"""

from __future__ import annotations

import copy
from pathlib import Path

import nbformat
import yaml

from cpnb.course.grading import grade
from cpnb.course.masters import Assignment, grade_id, release


def wrong_answers(assignment: Assignment) -> dict[str, list[dict]]:
    """By question: dicts of mistake, loses, says, code."""
    path = assignment.path.parents[2] / "wrong" / f"{assignment.name}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def with_answers(notebook, answers: dict):
    """A copy of a notebook with the code of some answer cells replaced."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        cell.source = answers.get(grade_id(cell), cell.source)
    return notebook


def grade_notebook(notebook, assignment: Assignment, folder: Path, name: str, **limits) -> dict:
    """Write a notebook as a submission, and grade it."""
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return grade(path, assignment, **limits)


def master_problems(assignment: Assignment, folder: Path) -> list[str]:
    """Points that the master itself does not get."""
    result = grade_notebook(assignment.master, assignment, folder, "master")
    return [
        f"{assignment.name}: the master loses points in {name}: {_messages(question)}"
        for name, question in result["questions"].items()
        if question["points"] != question["of"]
    ] + [f"{assignment.name}: {note}" for note in result["notes"]]


def release_problems(assignment: Assignment, folder: Path) -> list[str]:
    """Points that the untouched release gets, and cells of it that were not run."""
    result = grade_notebook(release(assignment.master), assignment, folder, "release")
    return [
        f"{assignment.name}: the untouched release gets {question['points']} for {name}"
        for name, question in (result["questions"] | result["written"]).items()
        if question["points"] != 0 or question.get("error")
    ]


def wrong_problems(assignment: Assignment, folder: Path, numbers=None) -> list[str]:
    """Wrong answers that lose other points than listed, or whose message does not name them."""
    listed = wrong_answers(assignment)
    rounds = range(max(map(len, listed.values()))) if numbers is None else numbers
    problems = []
    for number in rounds:
        chosen = {name: found[number] for name, found in listed.items() if number < len(found)}
        codes = {name: wrong["code"] for name, wrong in chosen.items()}
        notebook = with_answers(assignment.master, codes)
        result = grade_notebook(notebook, assignment, folder, f"wrong-{number}")
        for name, question in result["questions"].items():
            told = _problem(question, chosen.get(name))
            problems += (
                [f"{assignment.name}, {name}, wrong answer {number}: {told}"] if told else []
            )
    return problems


def _problem(question: dict, wrong: dict | None) -> str:
    lost = question["of"] - question["points"]
    if lost != (wrong["loses"] if wrong else 0):
        listed = f"{wrong['loses']:g} are listed ({wrong['mistake']})" if wrong else "it is right"
        return f"loses {lost:g} points where {listed}: {_messages(question)}"
    if wrong and wrong["says"] not in _messages(question):
        return f"the message does not say {wrong['says']!r}: {_messages(question)}"
    return ""


def _messages(question: dict) -> str:
    told = [f"{part['goal']}: {part['message']}" for part in question["parts"] if part["message"]]
    return " | ".join([*told, *filter(None, [question["error"]])]) or "no message"
