"""Of several notebooks the broken one is named before any runs; `~` works in every path."""

import json

import pytest
from small_notebooks import printed, write

from cpnb.runs import pool, publish, records, sweep

BROKEN = {
    "empty": b"",
    "cut short": b'{"cells": [{"cell_type": "co',
    "a web page": b"<!DOCTYPE html><html></html>",
    "a list": b"[]",
    "nothing": b"null",
    "another kind of JSON": b'{"a": 1}',
    "without cells": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
    "cells that are none": b'{"cells": 3, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
    "a cell without source": json.dumps(
        {
            "cells": [{"cell_type": "code", "metadata": {"tags": ["parameters"]}}],
            "nbformat": 4,
            "nbformat_minor": 4,
            "metadata": {},
        }
    ).encode(),
    "of a later format": b'{"cells": [], "nbformat": 9, "nbformat_minor": 0, "metadata": {}}',
    "not UTF-8": b"\xff\xfe{}",
    "without parameters": b'{"cells": [], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
}


@pytest.mark.parametrize("options", [["--out", "o"], ["--in-place"]], ids=["out", "in place"])
@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_the_broken_one_is_named_before_any_runs(tmp_path, capsys, monkeypatch, content, options):
    monkeypatch.setattr(pool, "start", None)
    paths = [write(tmp_path / "01_good.ipynb"), tmp_path / "02_bad.ipynb"]
    paths[1].write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        sweep.main([*map(str, paths), *options])
    message = capsys.readouterr().err
    assert stop.value.code == 2 and str(paths[1]) in message and "01_good" not in message


def test_a_broken_one_beside_them_is_no_matter(tmp_path):
    (tmp_path / "02_bad.ipynb").write_text("{")
    path = write(tmp_path / "01_good.ipynb")
    (tmp_path / "p.yaml").write_text("01_good: {rank: 1}")
    assert sweep.load_parameters(tmp_path / "p.yaml", [path]) == {"01_good": {"rank": 1}}
    (tmp_path / "p.yaml").write_text("02_bad: {rank: 1}")
    with pytest.raises(ValueError, match=r"02_bad\.ipynb is no notebook"):
        sweep.load_parameters(tmp_path / "p.yaml", [path])


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "home"
    assert not (tmp_path / "~").exists()


def test_home_on_the_command_line(home, capsys):
    """A shell leaves the ~ of --out=~/o as it is."""
    write(home / "n.ipynb", "print(rank)")
    (home / "p.yaml").write_text("n: {rank: 7}")
    assert sweep.main(["~/n.ipynb", "--parameters=~/p.yaml", "--out=~/o"]) == 0
    assert printed(home / "o" / "n__rank=7.ipynb") == "7\n"
    row = {"claim": "x", "commit": "c" * 40, "dirty": True}
    records.append(row, "~/o/r.jsonl")
    assert records.read("~/o/r.jsonl") == records.recorded("~/o/r.jsonl") == [row]
    assert publish.main(["~/o/r.jsonl"]) == 1 and "not as committed" in capsys.readouterr().err


def test_home_in_calls(home):
    write(home / "n.ipynb", "print(rank)")
    assert sweep.notebook_parameters("~/n.ipynb")["rank"] == 4
    assert sweep.check_parameters("~/n.ipynb", {"rank": 5}) == {"rank": 5}
    (home / "p.yaml").write_text("n: {rank: 7}")
    assert sweep.load_parameters("~/p.yaml", ["~/n.ipynb"]) == {"n": {"rank": 7}}
    assert sweep.run_notebook("~/n.ipynb", "~/o/n.ipynb").output == home / "o" / "n.ipynb"
    (run,) = sweep.run_grid("~/n.ipynb", {"rank": [1]}, "~/o", progress=False)
    assert run.output == home / "o" / "n__rank=1.ipynb"
    assert sweep.run_in_place("~/n.ipynb", progress=False).output == home / "n.ipynb"
