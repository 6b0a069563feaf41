"""Faults of a sweep, each with a real process killed, a real limit passed, or a real disk full.

After each the same command goes on: no record is lost or doubled, nothing is left running.
"""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from small_notebooks import printed, write

from cpnb.runs import records, states, sweep

# Without the machine's description, for which PyTorch is loaded, and that takes seconds.
RECORD = (
    "from cpnb.runs import records\nrecords.environment = dict\nrecords.record('point', value=rank)"
)
SLOW = "import pathlib, time\npathlib.Path(f'begun{rank}').touch()\ntime.sleep(wait)"
PARAMETERS = "rank = 0\nwait = 0.0"
PATIENCE = 60


@pytest.fixture
def slow(tmp_path):
    """A notebook that says that it has begun, and waits."""
    return write(tmp_path / "slow.ipynb", SLOW, RECORD, parameters=PARAMETERS)


def command(*words, **options):
    """The command line in a process of its own."""
    line = [sys.executable, "-m", "cpnb", "sweep", *map(str, words)]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


def begun(folder):
    """What the notebooks have left there to say that they run."""
    try:
        return list(folder.rglob("begun*"))
    except FileNotFoundError:  # a worker is clearing up a folder that was being listed
        return []


def descendants(process, name):
    """Processes that a sweep has started, whose command line has this word."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if any(name in word for word in child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def values(folder):
    """What the records of the folder hold, row for row."""
    path = folder / "records.jsonl"
    return sorted(row["value"] for row in records.read(path)) if path.exists() else []


def state(folder):
    return {row["parameters"]["rank"]: row["state"] for row in states.states(folder).values()}


def no_remains(folder):
    return not [p.name for p in folder.rglob("*") if p.name.endswith((".tmp", ".partial.ipynb"))]


def start(slow, out, ranks, *words):
    """A sweep of which the first point hangs and has begun."""
    waits = json.dumps([{"rank": r, "wait": 60.0 if r == 0 else 0.0} for r in ranks])
    points = slow.with_name("points.yaml")
    points.write_text(waits)
    process = command(slow, "--points", points, "--out", out, *words)
    until((slow.parent / "begun0").exists)
    return process


def test_a_kernel_killed_is_its_points_failure_alone(slow, tmp_path):
    process = start(slow, tmp_path / "o", [0, 1])
    for kernel in descendants(process, "ipykernel"):
        kernel.kill()
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "cell (import pathlib, time): DeadKernelError" in told
    assert state(tmp_path / "o") == {0: "failed", 1: "finished"} and values(tmp_path / "o") == [1]
    assert no_remains(tmp_path / "o")


def test_a_worker_killed_takes_its_kernel_along_and_is_started_again(slow, tmp_path):
    process = start(slow, tmp_path / "o", [0, 1], "--retry", "1")
    (tmp_path / "begun0").unlink()
    (kernel,) = descendants(process, "ipykernel")
    for worker in descendants(process, "cpnb.runs.worker"):
        worker.kill()
    until((tmp_path / "begun0").exists)  # started again
    assert psutil.wait_procs([kernel], timeout=10)[1] == []
    for worker in descendants(process, "cpnb.runs.worker"):
        worker.kill()
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "was killed by SIGKILL, 2 times" in told
    assert state(tmp_path / "o") == {0: "failed", 1: "finished"} and values(tmp_path / "o") == [1]


def test_a_sweep_killed_leaves_no_orphans_and_goes_on(slow, tmp_path):
    process = start(slow, tmp_path / "o", [0, 1])
    family = descendants(process, "")
    assert len(family) >= 2
    process.kill()
    process.communicate()
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert no_remains(tmp_path / "o")
    (tmp_path / "points.yaml").write_text("[{rank: 0}, {rank: 1}]")
    again = command(slow, "--points", tmp_path / "points.yaml", "--out", tmp_path / "o")
    assert again.wait(PATIENCE) == 0 and values(tmp_path / "o") == [0, 1]


def test_ctrl_c_once_lets_points_finish_and_starts_no_others(slow, tmp_path):
    (tmp_path / "points.yaml").write_text("[{rank: 0, wait: 3.0}, {rank: 1}]")
    process = command(slow, "--points", tmp_path / "points.yaml", "--out", tmp_path / "o")
    until((tmp_path / "begun0").exists)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "those that run may finish" in told
    assert "1 of 2 points were not run" in told
    assert state(tmp_path / "o") == {0: "finished", 1: "planned"} and values(tmp_path / "o") == [0]


def test_ctrl_c_twice_stops_now(slow, tmp_path):
    process = start(slow, tmp_path / "o", [0, 1])
    family = descendants(process, "")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "2 of 2 points were not run" in told
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert state(tmp_path / "o") == {0: "stopped", 1: "planned"} and no_remains(tmp_path / "o")


CELLS = {
    "raises": ("raise KeyError('conv9')", [], r"raise KeyError\('conv9'\)\): KeyError: 'conv9'"),
    "hangs": ("while True: pass", ["--timeout", "6s"], r"stopped at the time limit of 6 s"),
    "eats": (
        "held = []\nwhile True: held.append(bytearray(10**7))",
        ["--memory", "400M"],
        r"cell \(held = \[\]\): stopped at the memory limit of 0\.4 GB \(--memory\)",
    ),
}


@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_that(kind, tmp_path, capsys):
    cell, words, message = CELLS[kind]
    path = write(tmp_path / "n.ipynb", cell, RECORD, parameters="rank = 1")
    other = write(tmp_path / "m.ipynb", RECORD, parameters="rank = 1")
    code = sweep.main([str(path), str(other), "--out", str(tmp_path / "o"), *words])
    assert code == 1
    assert re.search(message, capsys.readouterr().err)
    assert values(tmp_path / "o") == [1] and (tmp_path / "o" / "n.failed.ipynb").exists()


def test_200_mb_of_output_are_cut_and_that_is_said(tmp_path):
    cells = "for _ in range(20): print('x' * 10**7)", "print('last')"
    path = write(tmp_path / "n.ipynb", *cells, parameters="rank = 1")
    (run,) = sweep.run_grid(path, {"rank": [2]}, tmp_path / "o", progress=False)
    assert run.output.stat().st_size < 15e6
    text = run.output.read_text()
    assert "this cell has put out more than 10 MB" in text and "last" in printed(run.output)


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 150 kB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=150k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a file system here; the limit of a file's size stands in")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


BIG = "print('x' * 200_000) if rank == 1 else None"


def test_a_full_disk_fails_the_point_and_not_the_sweep(small_disk, tmp_path):
    path = write(tmp_path / "n.ipynb", BIG, RECORD, parameters="rank = 0")
    process = command(path, "--grid", "rank=1,2", "--out", small_disk)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "No space left on device" in told
    assert "JSON" not in told and "Traceback" not in told
    assert values(small_disk) == [2] and no_remains(small_disk)
    assert printed(small_disk / "n__rank=2.ipynb") == ""


def test_a_file_that_may_not_grow_fails_the_point_and_not_the_sweep(tmp_path):
    """As on a full disk, without a right to mount one."""
    path = write(tmp_path / "n.ipynb", BIG, RECORD, parameters="rank = 0")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # noqa: E731
    words = [path, "--grid", "rank=1,2", "--out", tmp_path / "o"]
    process = command(*words, preexec_fn=limit)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "File too large" in told and "Traceback" not in told
    assert values(tmp_path / "o") == [2] and no_remains(tmp_path / "o")


def refusal(*words):
    process = command(*words)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2 and "Traceback" not in told
    return told


def test_outputs_that_cannot_be_are_told_before_any_kernel(slow, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert f"--out {file} is a file" in refusal(slow, "--out", file)
    assert "nothing can be written there" in refusal(slow, "--out", "/proc/cpnb")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.geteuid():  # the rights of a folder do not bind root
        assert "nothing can be written there" in refusal(slow, "--out", closed)
    assert "is the notebook itself" in refusal(slow, "--out", tmp_path)
    assert "found 0" in refusal(write(tmp_path / "without.ipynb", parameters=None))
    assert not list(tmp_path.rglob("begun*"))


def test_torn_and_binary_lines_are_told_and_cost_nothing_else(slow, tmp_path):
    folder = tmp_path / "o"
    folder.mkdir()
    for name in ("records.jsonl", "runs.jsonl"):
        (folder / name).write_bytes(b'{"claim": "x", "val\n\xff\xfe\x00\n{"output": "a.ipynb')
    with pytest.warns(UserWarning, match="this row is skipped"):
        sweep.run_grid(slow, {"rank": [1, 2]}, folder, progress=False)
        assert values(folder) == [1, 2]
        assert list(records.load(folder)["state"]) == ["finished", "finished"]
