"""The page of feedback of one submission: points, what went wrong, the student's own answers.

Outputs of a student's cells are not shown: they might have printed the tests.
"""

from __future__ import annotations

from html import escape, unescape
from pathlib import Path

from cpnb.course.masters import leaks

ANSWERS = "<!-- answers -->"
STYLE = (
    "body{font-family:sans-serif;max-width:60em;margin:2em auto;line-height:1.4}"
    "table{border-collapse:collapse}td{padding:.2em .8em;border-bottom:1px solid #ccc}"
    "pre{background:#f4f4f4;padding:.8em;overflow-x:auto}"
)


def write_page(result: dict, assignment, path: Path) -> None:
    """Write the page; a line of the tests that a message repeats is blotted out."""
    page = render(result)
    for line in leaks_in_page(page, assignment.master):
        page = page.replace(escape(line), "[not shown]")
    path.write_text(page, encoding="utf-8")


def leaks_in_page(page: str, master) -> list[str]:
    """Secret lines that a page shows; the student's own answers may well contain the solution."""
    return leaks(unescape(page.split(ANSWERS)[0]), master)


def render(result: dict) -> str:
    """The page as HTML; everything that came from the student is escaped."""
    title = f"{result['assignment']} · {result['student']}"
    written = result["written_of"]
    parts = [
        f"<!doctype html><meta charset='utf-8'><title>{escape(title)}</title>",
        f"<style>{STYLE}</style><h1>{escape(title)}</h1>",
        f"<p><b>{result['points']:g} of {result['of']:g} points by tests</b>; "
        f"written answers ({written:g} points) are read by a person.</p>",
        *(f"<p>Note: {escape(note)}</p>" for note in result["notes"]),
        *(_question(name, question) for name, question in result["questions"].items()),
        f"{ANSWERS}<h2>What you handed in</h2>",
        *(f"<h3>{escape(name)}</h3><pre>{escape(text)}</pre>" for name, text in _answers(result)),
    ]
    return "\n".join(parts)


def _question(name: str, question: dict) -> str:
    rows = "".join(
        f"<tr><td>{part['points']:g} / {part['of']:g}</td><td>{escape(str(part['goal']))}</td>"
        f"<td>{escape(str(part['message']))}</td></tr>"
        for part in question["parts"]
    )
    error = f"<p>{escape(question['error'])}</p>" if question["error"] else ""
    head = f"<h2>{escape(name)}: {question['points']:g} of {question['of']:g}</h2>"
    return f"{head}<table>{rows}</table>{error}"


def _answers(result: dict):
    yield from result["answers"].items()
    for name, answer in result["written"].items():
        yield name, answer["answer"]
