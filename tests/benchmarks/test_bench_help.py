"""Every benchmark tells its options and runs nothing when asked for help."""

import ast
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
FILES = sorted(FOLDER.glob("*.py"))
SCRIPTS = [path for path in FILES if "__main__" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_help_runs_nothing(path, tmp_path, monkeypatch, capsys):
    """In this process: one of its own would spend its seconds on importing PyTorch."""
    monkeypatch.setenv("CPNB_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert told.startswith(f"usage: {path.name}") and told.count("\n") > 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_file_says_how_it_is_run_or_that_it_is_not(path):
    told = " ".join(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).split())
    if path in SCRIPTS:
        assert f"benchmarks/{path.name}" in told or "make bench-" in told
    else:
        assert "imported, not run" in told
