"""A run that ends early is a failure, however it ends; only what has run to its end counts."""

import nbformat
import pytest
from small_notebooks import printed, write

from cpnb.runs import sweep

LAST = "import time; time.sleep(1); print('last')"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("import sys; sys.exit(0)", r"sys.exit\(0\)"),
        ("raise SystemExit", r"sys.exit\(\)"),
        ("exit()\nprint('still there')", r"exit\(\) or quit\(\)"),
        ("def stop():\n    quit()\nstop()", r"exit\(\) or quit\(\)"),
        ("import os; os._exit(0)", "Kernel died"),
        ("get_ipython().kernel._aborting = True", "this cell was never run"),
    ],
)
def test_a_cell_that_ends_the_run_is_named(tmp_path, cell, message):
    path = write(tmp_path / "n.ipynb", "print('first')", cell, LAST)
    output = tmp_path / "out" / "n.ipynb"
    with pytest.raises(sweep.NotebookError, match=rf"n\.ipynb, cell .*{message}") as error:
        sweep.run_notebook(path, output, progress=False)
    if "never run" not in message:
        assert cell.splitlines()[0] in str(error.value)
    assert [file.name for file in output.parent.iterdir()] == ["n.failed.ipynb"]
    assert "last" not in printed(output.parent / "n.failed.ipynb")


@pytest.mark.parametrize("cell", ["import sys; sys.exit(0)", "exit()"])
def test_an_end_in_the_last_cell_is_no_good_end_either(tmp_path, cell):
    path = write(tmp_path / "n.ipynb", cell)
    with pytest.raises(sweep.NotebookError, match="stopped early"):
        sweep.run_notebook(path, tmp_path / "out.ipynb", progress=False)
    assert not (tmp_path / "out.ipynb").exists()


def test_in_place_an_early_end_leaves_the_notebook_as_it_was(tmp_path):
    path = write(tmp_path / "n.ipynb", "import sys; sys.exit(0)", "print('last')")
    before = path.read_bytes()
    with pytest.raises(sweep.NotebookError, match="stopped early"):
        sweep.run_in_place(path, progress=False)
    assert path.read_bytes() == before


def test_the_command_line_tells_an_early_end_and_goes_on(tmp_path, capsys):
    early = write(tmp_path / "01_early.ipynb", "import sys; sys.exit(0)", LAST)
    whole = write(tmp_path / "02_whole.ipynb", "print('whole')")
    arguments = [str(early), str(whole), "--out", str(tmp_path / "o")]
    assert sweep.main(arguments) == 1
    assert (
        "01_early.ipynb, cell In [2] (import sys; sys.exit(0)): stopped" in capsys.readouterr().err
    )
    assert printed(tmp_path / "o" / "02_whole.ipynb") == "whole\n"


def test_cells_that_need_not_run_are_no_gaps(tmp_path):
    cells = (
        ("1 / 0", "skip-execution"),
        "   ",
        ("import sys; sys.exit(0)", "raises-exception"),
        "quit(keep_kernel=True)",
        "print('last')",
    )
    run = sweep.run_notebook(write(tmp_path / "n.ipynb", *cells), tmp_path / "o.ipynb")
    assert printed(run.output) == "last\n"
    code = [c for c in nbformat.read(run.output, 4).cells if c.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, None, None, 2, 3, 4]
