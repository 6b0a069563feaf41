"""Sweeps on a real Dask scheduler with two real workers on loopback, a work folder each."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import distributed
import psutil
import pytest
from small_notebooks import printed, write
from test_faults import PARAMETERS, RECORD, SLOW, begun, command, no_remains, state, until, values

from cpnb.runs import cluster, remote, sweep
from cpnb.runs.bundle import name_of, pack, unpack

ADDRESS = "tcp://127.0.0.1:{}"
DASK = [sys.executable, "-m", "distributed.cli.dask_{}"]
PATIENCE = 90


def dask(kind, *words, before=(), **variables):
    """A scheduler or worker, quiet, in a process of its own."""
    line = [*before, DASK[0], DASK[1], DASK[2].format(kind), *map(str, words)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(line, env=os.environ | variables, start_new_session=True, **quiet)


def free_port():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def scheduler(port):
    words = ["--host", "127.0.0.1", "--port", port, "--no-dashboard", "--dashboard-address", ":0"]
    return dask("scheduler", *words)


def worker(port, folder, **options):
    words = [ADDRESS.format(port), "--host", "127.0.0.1", "--nthreads", 1, "--no-dashboard"]
    return dask("worker", *words, "--local-directory", folder, "--death-timeout", 30, **options)


def end(*processes):
    for process in processes:
        family = psutil.Process(process.pid).children(recursive=True) if not process.poll() else []
        process.kill()
        process.wait()
        for child in family:
            try:
                child.kill()
            except psutil.Error:
                continue


@pytest.fixture
def slow(tmp_path):
    return write(tmp_path / "notebooks" / "slow.ipynb", SLOW, RECORD, parameters=PARAMETERS)


@pytest.fixture(autouse=True)
def _folders(tmp_path):
    (tmp_path / "notebooks").mkdir()


@pytest.fixture
def two_workers(tmp_path):
    """Port of a scheduler, and its processes: itself, and two workers."""
    port = free_port()
    processes = [scheduler(port)]
    processes += [worker(port, tmp_path / f"w{n}") for n in range(2)]
    yield port, processes
    end(*processes)


def test_points_run_there_and_come_back(two_workers, tmp_path):
    port, _ = two_workers
    path = write(tmp_path / "notebooks" / "n.ipynb", "print(rank)", RECORD, "1 / (rank - 3)",
                 parameters="rank = 0")  # fmt: skip
    words = [path, "--grid", "rank=1-4", "--out", tmp_path / "o"]
    process = command(*words, "--scheduler", ADDRESS.format(port))
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "cell In [5] (1 / (rank - 3)): ZeroDivisionError" in told
    assert values(tmp_path / "o") == [1, 2, 4] and no_remains(tmp_path / "o")
    assert printed(tmp_path / "o" / "n__rank=2.ipynb") == "2\n"
    assert (tmp_path / "o" / "n__rank=3.failed.ipynb").exists()
    runs = sweep.run_grid(path, {"rank": [1, 2, 4]}, tmp_path / "o", progress=False)
    assert all(run.skipped for run in runs)  # as if they had run here


def test_a_worker_killed_loses_and_doubles_nothing(two_workers, slow, tmp_path):
    port, (_, first, _) = two_workers
    until(lambda: (tmp_path / "w0").exists() and (tmp_path / "w1").exists())
    words = [slow, "--grid", "rank=0-3", "-p", "wait", "2", "--out", tmp_path / "o"]
    process = command(*words, "--scheduler", ADDRESS.format(port))
    until(lambda: begun(tmp_path))
    end(first)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, told
    assert values(tmp_path / "o") == [0, 1, 2, 3]


def test_a_scheduler_lost_and_back_again(slow, tmp_path):
    port = free_port()
    one = [scheduler(port), worker(port, tmp_path / "w0")]
    words = [slow, "--grid", "rank=0,1", "-p", "wait", "4", "--out", tmp_path / "o"]
    process = command(*words, "--scheduler", ADDRESS.format(port))
    two = []
    try:
        until(lambda: begun(tmp_path))
        end(*one)
        two = [scheduler(port), worker(port, tmp_path / "w1")]
        _, told = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, told
        assert values(tmp_path / "o") == [0, 1]
    finally:
        end(*two)


def test_a_scheduler_lost_for_good_is_told_and_the_rest_goes_on_later(
    slow, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    port = free_port()
    processes = [scheduler(port), worker(port, tmp_path / "w0")]
    client = distributed.Client(ADDRESS.format(port), set_as_default=False)
    client.wait_for_workers(1)
    client.get_executor().submit(lambda: (time.sleep(6), os.kill(os.getppid(), 9)))
    client.close()
    import threading

    threading.Timer(6, end, processes).start()
    words = [str(slow), "--grid", "rank=0,1", "-p", "wait", "60", "--out", str(tmp_path / "o")]
    assert sweep.main([*words, "--scheduler", ADDRESS.format(port)]) == 130
    told = capsys.readouterr().err
    assert f"the scheduler at {ADDRESS.format(port)} was lost, and is not back" in told
    assert "2 of 2 points were not run" in told
    assert set(state(tmp_path / "o").values()) <= {"stopped", "planned"}


def test_no_scheduler_is_a_clear_error_within_ten_seconds(slow, tmp_path):
    start, address = time.monotonic(), ADDRESS.format(free_port())
    process = command(slow, "--out", tmp_path / "o", "--scheduler", address)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2 and f"no scheduler answers at {address}" in told
    assert time.monotonic() - start < 12 and "Traceback" not in told


def test_a_worker_of_another_version_is_refused_with_both(two_workers, slow, tmp_path, monkeypatch):
    port, _ = two_workers
    theirs = re.escape(cluster.cpnb.__version__)
    monkeypatch.setattr(cluster.cpnb, "__version__", "9.9.9")
    with pytest.raises(ConnectionError, match=rf"has cpnb {theirs}, and here it is 9\.9\.9"):
        client = distributed.Client(ADDRESS.format(port), set_as_default=False)
        client.wait_for_workers(2)
        sweep.run_grid(slow, {"rank": [1]}, tmp_path / "o", scheduler=client)
    client.close()


def test_ctrl_c_twice_ends_what_runs_on_workers(two_workers, slow, tmp_path):
    import signal

    port, _ = two_workers
    words = [slow, "--grid", "rank=0,1,2", "-p", "wait", "60", "--out", tmp_path / "o"]
    process = command(*words, "--scheduler", ADDRESS.format(port))
    until(lambda: len(begun(tmp_path)) == 2)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    until(lambda: not list(tmp_path.glob("w*/**/point-*")))


def test_without_a_shared_disk_the_notebook_travels_with_its_neighbours(tmp_path):
    folder = tmp_path / "notebooks"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "numbers.txt").write_text("7")
    (folder / "helper.py").write_text("value = 35")
    code = "import helper, pathlib\nprint(helper.value + int(pathlib.Path(source).read_text()))"
    path = write(folder / "n.ipynb", code, "print(pathlib.Path.cwd())",
                 parameters='source = "../data/numbers.txt"\nrank = 0')  # fmt: skip
    hidden = ["unshare", "--mount", "sh", "-c",
              f"mount -t tmpfs none {folder} && mount -t tmpfs none {folder}/../data && "
              'exec "$@"',
              "sh"]  # fmt: skip
    if shutil.which("unshare") is None or subprocess.run([*hidden, "true"]).returncode:
        pytest.skip("no right to hide a folder from a worker; the next test unpacks a bundle")
    port = free_port()
    processes = [scheduler(port), worker(port, tmp_path / "w0", before=hidden)]
    try:
        (run,) = sweep.run_grid(
            path, {"rank": [1]}, tmp_path / "o", scheduler=ADDRESS.format(port), progress=False
        )
        total, place = printed(run.output).split()
        assert total == "42" and Path(place).is_relative_to(tmp_path / "w0")
        (again,) = sweep.run_grid(path, {"rank": [1]}, tmp_path / "o", progress=False)
        assert again.skipped
    finally:
        end(*processes)


def test_a_bundle_holds_what_lies_beside_and_nothing_that_runs_leave(tmp_path, monkeypatch):
    folder, away = tmp_path / "notebooks", tmp_path / "away"
    monkeypatch.setenv("CPNB_DATA", str(tmp_path / "sets"))
    for name in ("notebooks/sub/a.py", "notebooks/b.failed.ipynb", "notebooks/.c", "sets/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    path = write(folder / "n.ipynb")
    content = pack(folder)
    unpack(content, away)
    names = {str(p.relative_to(away / name_of(content))) for p in away.rglob("*") if p.is_file()}
    assert names == {
        "notebooks/notebooks/n.ipynb",
        "notebooks/notebooks/sub/a.py",
        "downloads/d.png",
    }
    assert remote._place(path, away / name_of(content)) == (path, {})
    path.unlink()
    there, variables = remote._place(path, away / name_of(content))
    assert there.is_file() and variables == {
        "CPNB_DATA": str(away / name_of(content) / "downloads")
    }
    monkeypatch.setattr("cpnb.runs.bundle.MOST", 10)
    with pytest.raises(ValueError, match="up to 0 GB are sent"):
        pack(folder)
