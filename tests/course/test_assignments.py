"""The course that ships: masters, releases, wrong answers, and what students may not see."""

import re
import subprocess
import sys

import nbformat
import pytest
from tiny import write_course

import cpnb
from cpnb.course import build, wrong
from cpnb.course.masters import (
    assignments,
    course_folder,
    find_assignment,
    grade_id,
    leaks,
    questions,
    release,
    secrets,
    written,
)

COURSE = course_folder()
ALL = assignments(COURSE)
each = pytest.mark.parametrize("assignment", ALL, ids=lambda a: a.name)


def test_there_are_five():
    assert [assignment.name[0] for assignment in ALL] == list("12345")
    assert find_assignment("2") == find_assignment("2_four_convolutions") == ALL[1]
    with pytest.raises(ValueError, match="no assignment '6'; there are: 1_cp_by_hand"):
        find_assignment("6")


@each
def test_a_master_reads_well(assignment):
    master = assignment.master
    nbformat.validate(master)
    of = questions(master)
    assert sum(of.values()) == 50 and sum(of[name] for name in written(master)) == 12
    text = "\n".join(cell.source for cell in master.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^## \d · .*$", text, flags=re.M)
    assert all(re.search(r"★+ · \d+ minutes · \d+ points$", heading) for heading in headings)
    minutes = sum(int(n) for n in re.findall(r"(\d+) minutes ·", text))
    told = int(re.search(r"\*\*Time\.\*\* (\d+) minutes", text)[1])
    assert 45 <= told == minutes <= 90
    assert text.count("<details><summary>Hint") >= 5 and "**Goals.**" in text
    assert text.count("**Rubric.**") == len(written(master))
    assert all(not cell.get("outputs") for cell in master.cells)


@each
def test_each_question_has_wrong_answers(assignment):
    listed = wrong.wrong_answers(assignment)
    tested = set(questions(assignment.master)) - written(assignment.master)
    assert set(listed) == tested
    for name, answers in listed.items():
        assert len(answers) >= 2
        for answer in answers:
            assert set(answer) == {"mistake", "loses", "says", "code"}
            assert 0 < answer["loses"] <= questions(assignment.master)[name]


def test_the_ranges_told_to_instructors_are_those_of_the_records():
    told = (COURSE / "INSTRUCTOR.md").read_text(encoding="utf-8")
    rows = cpnb.recorded(
        claim="layer-decomposition", layer="conv2", method="nls", dataset="chars74k", n_iter_max=200
    )
    for row in {row["rank"]: row for row in rows}.values():
        drop = 100 * (row["accuracy_baseline"] - row["accuracy_decomposed"])
        assert f"| {row['rank']} | {row['rel_error']:.3f} | {drop:.1f} |" in told
    starts = cpnb.recorded(claim="start-survival", method="nls", lr=0.01)
    for bound, words in ((10.0, "keeps {:.1f} to {:.1f}%"), (0.0, "plain fit {:.1f} to {:.1f}%")):
        kept = [100 * r["accuracy_finetuned"] for r in starts if r["max_degeneracy"] == bound]
        assert words.format(min(kept), max(kept)) in told


def test_there_are_wrong_answers_enough():
    assert sum(len(w) for a in ALL for w in wrong.wrong_answers(a).values()) >= 60


def test_masters_get_all_a_release_nothing_and_wrong_answers_lose_their_points():
    """All masters, one release, 13 wrong answers; `make assignments` grades all there are."""
    first = [(wrong.release_problems, ALL[1])]
    first += [(wrong.wrong_problems, assignment, [0]) for assignment in ALL[1:3]]
    chosen = [
        task for task in build.tasks(COURSE) if task[0] is wrong.master_problems or task in first
    ]
    assert len(chosen) == 8
    assert build.check(chosen, jobs=2) == []


def own_run(assignment, answers, *smaller):
    """What is left behind by the cell that students run for themselves, and grading skips."""
    names = {}
    for cell in assignment.master.cells:
        own = "if not grading()" in cell.source
        if own or grade_id(cell) in answers:
            source = cell.source
            for long, short in smaller if own else ():
                assert source.count(long) == 1
                source = source.replace(long, short)
            exec(source, names)
    return names


def test_the_sweep_that_students_run_gives_what_question_7_asks_about(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = own_run(ALL[3], ["setup", "sweep"], ("[8, 32, 128]", "[2]"), ("=20", "=2"))["rows"]
    assert [set(row) for row in found] == [{"rank", "rel_error", "drop", "bound", "speedup"}]
    assert found[0]["rank"] == 2 and found[0]["bound"] > 2


def test_the_training_that_students_run_gives_what_the_report_asks_about():
    shorter = ("size=1500", "size=64"), ("n_iter_max=20", "n_iter_max=2")
    found = own_run(ALL[4], ["setup", "finetune"], *shorter)["runs"]
    assert [(run["lr"], run["seed"]) for run in found] == [
        (0.002, 0), (0.002, 1), (0.0002, 0), (0.0002, 1)
    ]  # fmt: skip
    assert all(0 <= run["validation"] <= 1 and 0 <= run["test"] <= 1 for run in found)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    build.build(COURSE, folder / "release", folder / "otter")
    return folder


@each
def test_nothing_secret_is_handed_out(assignment, built):
    folders = built / "release" / assignment.name, built / "otter" / assignment.name / "student"
    assert len(secrets(assignment.master)) > 50
    assert build.leak_problems(assignment, *folders) == []
    for folder in folders:
        assert {"STUDENT.md", "AGENTS.md"} <= {path.name for path in folder.iterdir()}
        assert f"{assignment.name}.ipynb" in {path.name for path in folder.iterdir()}


@each
def test_a_leak_would_be_found(assignment, built):
    master = assignment.master
    folder = built / "otter" / assignment.name / "autograder"
    assert len(build.leak_problems(assignment, folder)) > 20
    assert leaks("\n".join(cell.source for cell in master.cells), master)


@each
def test_the_release_of_nbgrader_is_what_submissions_are_laid_on(assignment, built):
    path = built / "release" / assignment.name / f"{assignment.name}.ipynb"
    by_nbgrader, ours = nbformat.read(path, as_version=4), release(assignment.master)
    assert [cell.source for cell in by_nbgrader.cells] == [cell.source for cell in ours.cells]
    about = [[cell.metadata.get("nbgrader") for cell in nb.cells] for nb in (by_nbgrader, ours)]
    assert about[0] == about[1]


@each
def test_the_otter_export_has_a_test_case_a_part(assignment, built):
    folder = built / "otter" / assignment.name
    tested = set(questions(assignment.master)) - written(assignment.master)
    for kind in ("student", "autograder"):
        files = {path.stem: path.read_text() for path in (folder / kind / "tests").glob("*.py")}
        assert set(files) == tested
        for text in files.values():
            compile(text, "test", "exec")
            assert ("hidden=True" in text) == (kind == "autograder")
    for name in tested:
        text = (folder / "autograder" / "tests" / f"{name}.py").read_text()
        points = [float(p) for p in re.findall(r"^@test_case\(.*points=([\d.]+)", text, re.M)]
        assert sum(points) == questions(assignment.master)[name]
    notebook = nbformat.read(folder / "student" / f"{assignment.name}.ipynb", as_version=4)
    checks = [cell.source for cell in notebook.cells if cell.source.startswith("grader.check")]
    assert checks == [
        f'grader.check("{name}")' for name in questions(assignment.master) if name in tested
    ]


def test_a_wrong_list_is_told(tmp_path):
    """The tests of the tests can fail: other points, no message, a right answer among them."""
    assignment = write_course(tmp_path)
    (tmp_path / "wrong").mkdir()
    answers = {
        "double": "[{mistake: none, loses: 3, says: '', code: 'double = abs'}]",
        "triple": "[{mistake: none, loses: 4, says: no such words, code: 'triple = str'}]",
    }
    text = "\n".join(f"{name}: {answer}" for name, answer in answers.items())
    (tmp_path / "wrong" / "1_tiny.yaml").write_text(text)
    problems = wrong.wrong_problems(assignment, tmp_path)
    assert "double, wrong answer 0: loses 4 points where 3 are listed" in problems[0]
    assert "triple, wrong answer 0: the message does not say 'no such words'" in problems[1]
    master = wrong.with_answers(assignment.master, {"double": "double = None"})
    nbformat.write(master, assignment.path)
    (told,) = wrong.master_problems(assignment, tmp_path)
    assert "the master loses points in double: of one: your code stopped with TypeError" in told


def test_the_command_says_what_it_made(tmp_path):
    write_course(tmp_path)
    (tmp_path / "wrong").mkdir()
    for name in ("1_tiny", "2_other"):
        (tmp_path / "wrong" / f"{name}.yaml").write_text("{}")
    command = [sys.executable, "-m", "cpnb", "assignments", "--build", "--course", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "2 assignments, 0 wrong answers: 0 problems" in run.stdout
    handed_out = nbformat.read(tmp_path / "release/1_tiny/1_tiny.ipynb", as_version=4)
    (double,) = [cell for cell in handed_out.cells if grade_id(cell) == "double"]
    assert double.source == "def double(x):\n    raise NotImplementedError"
