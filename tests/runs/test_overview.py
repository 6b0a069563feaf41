"""What a sweep tells of itself, in prints and as a table, and how sweeps share work and machine."""

import json
import socket
import subprocess
import sys
import threading
import time

import matplotlib.pyplot as plt
import pandas
import pytest
from small_notebooks import write

from cpnb.runs import execution, locks, records, states, sweep
from cpnb.study import figures

RECORD = (
    "from cpnb.runs import records\nrecords.environment = dict\n"
    "records.record('point', accuracy=rank / 10 + seed)"
)
WAIT = "import pathlib, time\npathlib.Path(f'begun{rank}-{seed}').touch()\ntime.sleep(wait)"
PARAMETERS = "rank = 0\nseed = 0\nwait = 0.0"
LINE = [sys.executable, "-m", "cpnb", "sweep"]


@pytest.fixture
def notebook(tmp_path):
    return write(tmp_path / "n.ipynb", WAIT, RECORD, parameters=PARAMETERS)


def call(*words, code=0):
    """What the command line prints; it returns `code`."""
    run = subprocess.run([*LINE, *map(str, words)], capture_output=True, text=True, timeout=120)
    assert run.returncode == code, run.stderr
    return run.stdout + run.stderr


def begin(*words):
    return subprocess.Popen([*LINE, *map(str, words)], stderr=subprocess.PIPE, text=True)


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def begun(folder):
    return sorted(path.name for path in folder.glob("begun*"))


def test_a_dry_run_tells_points_and_times_and_runs_nothing(notebook, tmp_path):
    words = notebook, "--grid", "rank=1,2", "--out", tmp_path / "o"
    told = call(*words, "--dry-run")
    assert "2 of 2 points to be run; how long they take is not known yet" in told
    assert not begun(tmp_path) and not (tmp_path / "o").exists()
    call(notebook, "-p", "rank", 1, "-p", "wait", 1.5, "--out", tmp_path / "o")
    call(notebook, "-p", "rank", 1, "--out", tmp_path / "o")
    told = call(*words, "--dry-run")
    assert "finished before" in told and "n__rank=2.ipynb" in told
    assert "1 of 2 points to be run; about " in told and "by earlier runs" in told


def test_points_of_csv_are_run_one_a_line(notebook, tmp_path):
    (tmp_path / "points.csv").write_text("rank,seed\n1,5\n2,6\n")
    call(notebook, "--points", tmp_path / "points.csv", "--out", tmp_path / "o", "--jobs", 2)
    assert begun(tmp_path) == ["begun1-5", "begun2-6"]
    (tmp_path / "points.csv").write_text("rank,sead\n1,5\n")
    assert "sead" in call(notebook, "--points", tmp_path / "points.csv", code=2)


def test_status_from_another_terminal_and_the_table(notebook, tmp_path):
    out = tmp_path / "o"
    assert "holds no sweep" in call("--status", out, code=2)
    process = begin(notebook, "--grid", "rank=1", "seed=1,2", "-p", "wait", "20.0", "--out", out)
    try:
        until(lambda: begun(tmp_path))
        told = call("--status", out)
        assert "2 points, 1 running, 1 planned" in told
        assert "running  n__rank=1__seed=1__wait=20.0.ipynb" in told
        assert "cell 4/5 (import pathlib, time)" in told
    finally:
        process.terminate()
        process.communicate(timeout=60)
    call(notebook, "--grid", "rank=3", "seed=1,2", "--out", out)
    table = call("--table", out).splitlines()
    assert table[0].split() == [
        *("notebook", "output", "state", "seconds", "threads"),
        *("rank", "seed", "wait", "accuracy"),
    ]
    finished = [line.split() for line in table if "finished" in line]
    assert [(row[5], row[6], row[8]) for row in finished] == [("3", "1", "1.3"), ("3", "2", "2.3")]


def test_two_sweeps_into_one_folder_share_the_points(notebook, tmp_path):
    words = notebook, "--grid", "rank=0-3", "-p", "wait", "1.0", "--out", tmp_path / "o"
    both = [begin(*words) for _ in range(2)]
    for process in both:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    rows = records.read(tmp_path / "o" / "records.jsonl")
    assert sorted(row["accuracy"] for row in rows) == [0.0, 0.1, 0.2, 0.3]
    assert {row["state"] for row in states.states(tmp_path / "o").values()} == {"finished"}


def test_a_kernel_that_does_not_start_is_started_once_more(notebook, tmp_path, monkeypatch):
    """The first kernel ends at once, as where its port was taken."""
    starts = []

    class Unlucky(execution.ThisInterpreter):
        def format_kernel_cmd(self, *arguments, **options):
            starts.append(1)
            command = super().format_kernel_cmd(*arguments, **options)
            return [sys.executable, "-c", "raise SystemExit(1)"] if len(starts) == 1 else command

    monkeypatch.setattr(execution, "ThisInterpreter", Unlucky)
    sweep.run_notebook(notebook, tmp_path / "o" / "n.ipynb", progress=False)
    assert len(starts) == 2 and begun(tmp_path) == ["begun0-0"]


def echo(server) -> None:
    """Answers with what it was sent, as a client does that is connected to itself."""
    while True:
        client, _ = server.accept()
        with client:
            while sent := client.recv(4096):
                client.sendall(sent)


def test_a_port_where_something_else_answers_does_not_hold_the_run(notebook, tmp_path, monkeypatch):
    """The kernel ends, and nothing can be sent to what has its port: that must not wait for ever.

    Seen once in a thousand starts by eight processes.
    """
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=echo, args=(server,), daemon=True).start()
    managers = []

    class Unlucky(execution.ThisInterpreter):
        def __init__(self, **options):
            super().__init__(**options)
            managers.append(self)
            if len(managers) == 1:
                self.cache_ports, self.shell_port = False, server.getsockname()[1]

    monkeypatch.setattr(execution, "ThisInterpreter", Unlucky)
    monkeypatch.setattr("cpnb.runs.kernels.SENDING", 1.0)
    sweep.run_notebook(notebook, tmp_path / "o" / "n.ipynb", progress=False)
    assert len(managers) == 2 and begun(tmp_path) == ["begun0-0"]


def test_who_measures_time_has_the_machine_alone(tmp_path):
    """Points of a notebook tagged `timing` do not overlap, whatever --jobs says."""
    source = (
        "import time\nfrom cpnb.runs import records\nrecords.environment = dict\n"
        "start = time.time()\ntime.sleep(1)\n"
        "records.record('point', start=start, end=time.time())"
    )
    path = write(tmp_path / "n.ipynb", source, parameters="rank = 0")
    content = json.loads(path.read_text())
    content["metadata"]["tags"] = ["timing"]
    path.write_text(json.dumps(content))
    call(path, "--grid", "rank=1-3", "--jobs", 3, "--out", tmp_path / "o")
    rows = records.read(tmp_path / "o" / "records.jsonl")
    spans = sorted((row["start"], row["end"]) for row in rows)
    assert len(spans) == 3
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))


def test_a_lock_has_one_holder_and_tells_of_it(tmp_path):
    with locks.held(tmp_path / "a.lock") as note:
        note({"pid": 5})
        assert locks.holder(tmp_path / "a.lock") == {"pid": 5}
        with locks.held(tmp_path / "a.lock") as other:
            assert other is None
    assert locks.holder(tmp_path / "a.lock") is None


def test_two_parameters_against_a_figure():
    points = pandas.DataFrame(
        {"rank": [1, 1, 2, 2], "seed": [0, 0, 0, 1], "accuracy": [0.2, 0.4, 0.5, None]}
    )
    ax = figures.over_two(points, "rank", "seed", "accuracy", "share").axes[0]
    drawn = ax.images[0].get_array()
    assert drawn.tolist() == [[pytest.approx(0.3), 0.5]]  # seed 1 has no figure yet
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("rank", "seed")
    with pytest.raises(ValueError, match="no column 'ranks'; there are rank, seed, accuracy"):
        figures.over_two(points, "ranks", "seed", "accuracy")
    with pytest.raises(ValueError, match="no point has 'accuracy' yet"):
        figures.over_two(points.tail(1), "rank", "seed", "accuracy")
    plt.close("all")
