"""Every benchmark tells its options and runs nothing when asked for help."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
FILES = sorted(FOLDER.glob("*.py"))
SCRIPTS = [path for path in FILES if "__main__" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_help_runs_nothing(path, tmp_path):
    run = subprocess.run(
        [sys.executable, path, "--help"],
        env=os.environ | {"CPNB_RESULTS": str(tmp_path / "results"), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"usage: {path.name}") and run.stdout.count("\n") > 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_file_says_how_it_is_run_or_that_it_is_not(path):
    told = " ".join(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).split())
    if path in SCRIPTS:
        assert f"benchmarks/{path.name}" in told or "make bench-" in told
    else:
        assert "imported, not run" in told
