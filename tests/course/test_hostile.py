"""Submissions that mean no good, or had bad luck: each gets what it deserves, the batch goes on."""

import argparse
import csv
import json
import os
import socket
import time

import nbformat
import psutil
import pytest
from tiny import answered, changed, write_course

from cpnb.course.execute import Execute
from cpnb.course.grade import find_submissions, grade_all, main
from cpnb.course.masters import find_assignment, grade_id, release

RIGHT = "def double(x):\n    return 2 * x\n"
# What stands in the cell of `double`, and the points of the notebook: 4 for double, 4 for triple.
CODE = {
    "never-ends": ("while True:\n    pass", 4),
    "swallows-interrupts": (
        "import time\nwhile True:\n    try:\n        time.sleep(9)\n    except BaseException:\n"
        "        pass",
        4,
    ),
    "hangs-in-tests": ("def double(x):\n    while True:\n        pass", 4),
    "exits": (RIGHT + "exit()", 4),
    "exits-at-once": ("import os\nos._exit(0)", 4),
    "raises-exit": (RIGHT + "raise SystemExit", 8),
    "forks": ("import os\nwhile True:\n    os.fork()", 4),
    "forks-once": (RIGHT + "import os\nos.fork()", 8),
    "leaves-a-process": (
        RIGHT + "import subprocess\nsubprocess.Popen(['sleep', '987654'], start_new_session=True)",
        8,
    ),
    "kills-the-grader": (RIGHT + "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", 8),
    "prints-100-MB": (RIGHT + "for _ in range(100):\n    print('x' * 1_000_000)", 8),
    # bytes, whose zeros are not written: the limit is met however slow the machine is.
    "fills-memory": ("held = []\nwhile True:\n    held.append(bytes(50_000_000))", 4),
    "fills-the-disk": (
        # Reserved, not written: a slow disk would take longer than a cell may.
        "import os\nn = 0\nwhile True:\n    n += 1\n    with open(f'{n}.bin', 'wb') as file:\n"
        "        os.posix_fallocate(file.fileno(), 0, 30_000_000)",
        4,
    ),
    "empties-its-folder": (
        RIGHT + "import os, shutil\nshutil.rmtree(os.getcwd(), ignore_errors=True)",
        8,
    ),
    "silences-tracebacks": (
        "shell = get_ipython()\nshell.showtraceback = shell._showtraceback = lambda *a, **k: None\n"
        "del Marks",
        0,
    ),
    "empties-later-cells": (
        "get_ipython().input_transformers_cleanup.append(lambda lines: [])\n",
        0,
    ),
    "gives-itself-more": (
        "from cpnb.course import marks as module\nmodule.Marks.total = lambda self: 400.0",
        0,
    ),
    "warns": (
        "import sys, warnings\ndef double(x):\n    warnings.warn('careful')\n"
        "    print('progress: 100%', file=sys.stderr)\n    return 2 * x",
        8,
    ),
    "writes-outside": (RIGHT + "open(OUTSIDE, 'w').write('here')", 8),
    "reads-the-tests": (RIGHT + "print(open(MASTER).read())", 8),
    "uses-the-network": (RIGHT + "import socket\nsocket.create_connection(ADDRESS, 2)", 8),
}


def _without(*names):
    return lambda cells: [cell for cell in cells if grade_id(cell) not in names]


def _twice(cells):
    return [copied for cell in cells for copied in (cell, nbformat.from_dict(dict(cell)))]


def _own_tests(cells):
    for cell in cells:
        if grade_id(cell) == "test-double":
            cell.source = "marks = Marks(4)\nwith marks.part(4, 'mine'):\n    pass\nmarks"
    return cells


def _write(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def _hand_in(folder, assignment, address):
    """All submissions, as students hand them in; their points by student."""
    places = f"OUTSIDE, MASTER = {str(folder / 'outside.txt')!r}, {str(assignment.path)!r}\n"
    places += f"ADDRESS = {address!r}\n"
    points = {}
    for name, (code, deserved) in CODE.items():
        _write(
            folder / name, f"{assignment.name}.ipynb", answered(assignment, double=places + code)
        )
        points[name] = deserved
    good = answered(assignment)
    bad = answered(assignment, double="def double(x):\n    return x")
    helper = nbformat.v4.new_code_cell("def twice(x):\n    return 2 * x")
    odd = {
        "honest-1": (good, 8),
        "honest-2": (bad, 4),
        "untouched": (release(assignment.master), 0),
        "cells-deleted": (changed(good, _without("setup", "double", "test-double")), 4),
        "cells-twice": (changed(good, _twice), 8),
        "cells-in-reverse": (changed(good, lambda cells: cells[::-1]), 8),
        "own-tests": (changed(bad, _own_tests), 4),
        "own-helper": (
            changed(answered(assignment, double="double = twice"), lambda c: [helper, *c]),
            8,
        ),
        "empty": ("", 0),
        "no-notebook": ('{"cells": "none"}', 0),
        "other": (release(find_assignment("2", assignment.path.parents[2]).master), 0),
    }
    for name, (content, deserved) in odd.items():
        _write(folder / name, f"{assignment.name}.ipynb", content)
        points[name] = deserved
    _write(folder / "renamed", "Untitled (1).ipynb", good)
    _write(folder / "tree" / assignment.name, f"{assignment.name}.ipynb", good)
    _write(folder, "plain-file.ipynb", good)
    return points | {"renamed": 8, "tree": 8, "plain-file": 8}


OPTIONS = argparse.Namespace(
    jobs=2, cell_seconds=5, notebook_seconds=60, memory=2 << 30, force=False
)


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    assignment = write_course(folder / "course")
    with socket.create_server(("127.0.0.1", 0)) as server:
        deserved = _hand_in(folder / "submitted", assignment, server.getsockname())
        out = folder / "graded"
        (out / "feedback").mkdir(parents=True)
        submissions = find_submissions(folder / "submitted", assignment, out)
        results = grade_all(submissions, assignment, OPTIONS)
    return folder, assignment, deserved, {result["student"]: result for result in results}


def test_imports_that_take_long_on_a_busy_machine_cost_nobody_points(tmp_path):
    """Only a student's own cells, and their tests, have the limit of a cell."""
    master = write_course(tmp_path).master
    step = Execute(timeout=5)
    step._deadline = time.monotonic() + 60
    seconds = {grade_id(cell): step._seconds_for(cell) for cell in master.cells}
    assert (seconds["setup"], seconds["double"], seconds["test-double"]) == (60, 5, 5)


def test_everybody_is_graded_and_gets_what_the_answers_deserve(batch):
    _, _, deserved, results = batch
    assert {name: result["points"] for name, result in results.items()} == deserved


def test_one_bad_answer_costs_its_own_question_only(batch):
    _, _, deserved, results = batch
    for name in CODE:
        if deserved[name] == 4:
            assert results[name]["questions"]["triple"]["points"] == 4, name


@pytest.mark.parametrize(
    ("student", "note"),
    [
        ("cells-deleted", "setup: was deleted"),
        ("cells-twice", "double: answered twice"),
        ("own-tests", "test-double: was changed"),
        ("empty", "the file is no notebook"),
        ("no-notebook", "the file is no notebook"),
        ("other", "this is a notebook of 2_other"),
    ],
)
def test_what_was_odd_is_noted(batch, student, note):
    assert any(note in told for told in batch[3][student]["notes"])


@pytest.mark.parametrize(
    ("student", "told"),
    [
        ("never-ends", "stopped after 5 s"),
        ("hangs-in-tests", "stopped after 5 s"),
        ("exits", "the cell ended the kernel by exit()"),
        ("forks", "more than"),
        ("fills-memory", "MemoryError"),
        ("fills-the-disk", "more than 512 MiB on disk"),
        ("silences-tracebacks", "NameError"),
        ("empties-later-cells", "the test cell did not end with its marks"),
    ],
)
def test_what_stopped_a_cell_is_told(batch, student, told):
    assert told in batch[3][student]["questions"]["double"]["error"]


def needs(door, results):
    told = results["honest-1"]["jail"][door]
    if told != "yes":
        pytest.skip(f"this system cannot keep students' code from {door} ({told})")


def test_nothing_is_written_outside(batch):
    folder, _, _, results = batch
    needs("files", results)
    assert not (folder / "submitted" / "outside.txt").exists()


def test_tests_and_network_are_out_of_reach(batch):
    results = batch[3]
    needs("files", results)
    needs("network", results)
    assert all("the secret" not in json.dumps(result["questions"]) for result in results.values())


def test_no_process_is_left(batch):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        left = [p for p in psutil.process_iter(["cmdline"]) if "987654" in str(p.info["cmdline"])]
        if not left:
            return
        time.sleep(0.2)
    assert not left


def test_a_feedback_page_shows_marks_and_no_hidden_test(batch):
    folder, _, _, results = batch
    for name in results:
        page = (folder / "graded" / "feedback" / f"{name}.html").read_text()
        assert "of 8 points by tests" in page
        assert "== 2 * 17" not in page and "the secret" not in page


def test_a_second_run_grades_only_what_is_new(batch):
    folder, assignment, _, results = batch
    submissions = find_submissions(folder / "submitted", assignment, folder / "graded")
    start = time.monotonic()
    again = grade_all(submissions, assignment, OPTIONS)
    assert time.monotonic() - start < 5
    assert {result["student"]: result for result in again} == results


def test_the_command_writes_a_table_and_one_notebook_alone_is_json(batch, tmp_path, capsys):
    folder, assignment, _, _ = batch
    class_of_one = tmp_path / "class"
    good = answered(assignment)
    _write(class_of_one / "=cmd()", "mine.ipynb", good)
    course = ["--assignment", "1", "--course", str(folder / "course")]
    assert main([str(class_of_one), *course, "--out", str(tmp_path / "out")]) == 0
    with open(tmp_path / "out" / "1_tiny" / "points.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["student"] == "'=cmd()" and row["tests (8)"] == "8" and row["double (4)"] == "4"
    assert row["why (2)"] == "0"  # not answered; an answer leaves it blank, to be read
    capsys.readouterr()
    assert main([str(class_of_one / "=cmd()" / "mine.ipynb"), *course]) == 0
    assert json.loads(capsys.readouterr().out)["points"] == 8
    assert os.environ.get("NBGRADER_EXECUTION") is None
