"""Records: rows survive crashes and several writers, and say where they come from."""

import json
import math
import multiprocessing
import subprocess

import numpy as np
import pytest
import torch

from cpnb.runs import jsonl, machine, records


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("CPNB_RESULTS", str(tmp_path / "local"))
    return tmp_path / "local" / "records.jsonl"


def git(folder, *arguments):
    names = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", folder, *names, *arguments], check=True, capture_output=True)


def notebook(source, output="0"):
    cell = {"cell_type": "code", "source": source, "outputs": [output], "execution_count": 1}
    return json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture
def checkout(tmp_path):
    """A git checkout that has the project's folders, with one commit."""
    for folder in ("cpnb", "data", "notebooks", "results"):
        (tmp_path / folder).mkdir()
    (tmp_path / "cpnb" / "cp.py").write_text("rank = 1\n")
    (tmp_path / "notebooks" / "00_a.ipynb").write_text(notebook("rank = 1"))
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    machine.git_state.cache_clear()
    yield tmp_path
    machine.git_state.cache_clear()


def test_rows_come_back_as_they_went_in(tmp_path):
    path = tmp_path / "new" / "records.jsonl"
    row = {"claim": "x", "ranks": {"conv2": 64}, "text": "naïve\nline", "seed": 0, "none": None}
    records.append(row, path)
    records.append({"n": 2}, path)
    assert records.read(path) == [row, {"n": 2}]
    assert len(path.read_bytes().splitlines()) == 2


def test_numpy_and_torch_values_become_plain(tmp_path):
    path = tmp_path / "r.jsonl"
    values = {
        "a": np.float32(0.5), "b": np.int64(3), "c": torch.tensor(2.0), "d": np.arange(2),
        "e": torch.float32, "f": torch.device("cpu"), "g": (1, 2), "h": np.bool_(True),
    }  # fmt: skip
    records.append(values, path)
    assert records.read(path) == [
        {"a": 0.5, "b": 3, "c": 2.0, "d": [0, 1], "e": "torch.float32", "f": "cpu", "g": [1, 2],
         "h": True}
    ]  # fmt: skip


def test_non_finite_numbers_survive_in_standard_json(tmp_path):
    path = tmp_path / "r.jsonl"
    records.append({"x": math.inf, "y": [-math.inf, torch.tensor(math.nan)]}, path)

    def refuse(name):
        raise AssertionError(f"{name} is not standard JSON")

    json.loads(path.read_text(), parse_constant=refuse)
    (row,) = records.read(path)
    assert row["x"] == math.inf and row["y"][0] == -math.inf and math.isnan(row["y"][1])


def test_a_value_that_cannot_be_written_is_named_and_nothing_is_written(tmp_path):
    path = tmp_path / "r.jsonl"
    with pytest.raises(TypeError, match=r"row\['layer'\].*Conv2d"):
        records.append({"layer": torch.nn.Conv2d(1, 1, 1)}, path)
    assert not path.exists()


def test_rows_that_do_not_parse_are_named_and_skipped(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n": \n[2]\n\xff\xfe\n{"n": 5}\n')
    with pytest.warns(UserWarning) as warned:
        assert records.read(path) == [{"n": 1}, {"n": 5}]
    told = [str(w.message) for w in warned]
    assert [text.split(":")[0] for text in told] == [f"{path}, line {n}" for n in (2, 3, 4)]
    assert "list" in told[1]


def test_a_row_after_a_crash_starts_on_a_line_of_its_own(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n": 2, "half')
    records.append({"n": 3}, path)
    with pytest.warns(UserWarning, match="line 2"):
        assert records.read(path) == [{"n": 1}, {"n": 3}]


def test_a_row_written_in_part_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    records.append({"n": 1}, path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jsonl.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        records.append({"n": 2}, path)
    assert path.read_text() == '{"n": 1}\n'


def _write_rows(path, writer):
    for i in range(50):
        records.append({"writer": writer, "i": i, "pad": "x" * 5000}, path)


def test_several_writers_do_not_mix_their_rows(tmp_path):
    path = tmp_path / "r.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_rows, args=(path, w)) for w in range(4)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    rows = records.read(path)
    for writer in range(4):
        assert [row["i"] for row in rows if row["writer"] == writer] == list(range(50))


def test_record_adds_where_it_ran(results):
    row = records.record("charnet", rank=np.int64(64), threads=1)
    assert records.recorded(results, claim="charnet", rank=64) == [row]
    assert records.recorded(results, rank=65) == []
    assert row["threads"] == 1  # what was measured with, not what the process has now
    assert {"cpu", "device", "utc", "commit", "dirty"} <= set(row)


def test_record_refuses_an_empty_claim_and_names_it_fills_in(results):
    with pytest.raises(ValueError, match="claim=' '"):
        records.record(" ")
    with pytest.raises(ValueError, match="dirty"):
        records.record("x", dirty=False)
    assert not results.exists()


def test_no_records_yet_is_an_empty_list(tmp_path):
    assert records.recorded(tmp_path / "none.jsonl") == []
    with pytest.raises(FileNotFoundError):
        records.read(tmp_path / "none.jsonl")


def test_environment_names_the_versions_in_use():
    versions = records.environment()["versions"]
    assert versions["numpy"] == np.__version__
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_a_checkout_as_committed_is_clean(checkout):
    commit, dirty = machine.git_state(checkout)
    assert len(commit) == 40 and dirty is False


@pytest.mark.parametrize(
    ("name", "content", "dirty"),
    [
        ("cpnb/cp.py", "rank = 2\n", True),
        ("cpnb/new.py", "", True),
        ("notebooks/00_a.ipynb", notebook("rank = 2"), True),
        ("notebooks/00_a.ipynb", notebook("rank = 1", output="1"), False),
        ("notebooks/00_a.ipynb", "not a notebook", True),
        ("results/records.jsonl", "{}\n", False),
        ("README.md", "text", False),
    ],
)
def test_only_changed_code_is_dirty(checkout, name, content, dirty):
    (checkout / name).write_text(content)
    assert machine.git_state(checkout)[1] is dirty


def test_a_deleted_file_is_dirty(checkout):
    (checkout / "notebooks" / "00_a.ipynb").unlink()
    assert machine.git_state(checkout)[1] is True


def test_a_copy_without_git_has_no_commit(checkout):
    """Also inside another repository, whose commit says nothing about this code."""
    inner = checkout / "vendored"
    inner.mkdir()
    assert machine.git_state(inner) == (None, None)
