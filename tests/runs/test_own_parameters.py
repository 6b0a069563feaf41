"""A running notebook finds its own name and parameters; a real kernel is asked."""

import ast

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from cpnb.runs.notebooks import NotebookError, run_in_place, run_notebook
from cpnb.runs.parameters import own_parameters

ASK = "from cpnb.runs.parameters import own_parameters\nprint(own_parameters())"
PARAMETERS = 'rank = 4  # how many\nmethod: str | None = "nls"'


def write(path, *cells, parameters=PARAMETERS):
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[tagged, *map(new_code_cell, cells)]), path)
    return path


def told(path):
    """What the notebook's last cell printed."""
    (output,) = nbformat.read(path, as_version=4).cells[-1].outputs
    return ast.literal_eval(output.text)


def test_of_several_notebooks_it_is_the_one_that_runs_and_injected_values_count(tmp_path):
    write(tmp_path / "01_other.ipynb", parameters="seed = 0\nrank = 1")
    (tmp_path / "02_broken.ipynb").write_text("{")
    nbformat.write(new_notebook(), tmp_path / "02_without.ipynb")
    path = write(tmp_path / "03_x.ipynb", ASK)
    write(tmp_path / "03_x-Copy1.ipynb", ASK)
    write(tmp_path / "03_x.failed.ipynb", ASK)
    write(tmp_path / "04_more.ipynb", parameters="rank = 2\nmethod = 'als'\nseed = 0")
    run = run_notebook(path, tmp_path / "03_x_rank7.ipynb", {"rank": 7}, progress=False)
    assert told(run.output) == ("03_x", {"rank": 7, "method": "nls"})


def test_in_place_they_are_the_defaults(tmp_path):
    path = write(tmp_path / "03_x.ipynb", ASK)
    run_in_place(path, progress=False)
    assert told(path) == ("03_x", {"rank": 4, "method": "nls"})


@pytest.mark.parametrize("given", [{"rank": 7}, {}], ids=["injected too", "defaults"])
def test_a_later_cell_may_change_them_and_be_another_notebooks(tmp_path, given):
    """`rank = …` alone, injected or by hand, is what 01_other declares."""
    write(tmp_path / "01_other.ipynb", parameters="rank = 1")
    path = write(tmp_path / "03_x.ipynb", "rank = 8", "%matplotlib inline\nother = 5", ASK)
    run = run_notebook(path, tmp_path / "out" / "x.ipynb", given, progress=False)
    assert told(run.output) == ("03_x", {"rank": 8, "method": "nls"})


def test_without_a_history_of_cells_the_names_tell(tmp_path):
    """nbval executes cells without one; a longer notebook beside it begins with the same names."""
    write(tmp_path / "01_other.ipynb", parameters="rank = 2\nmethod = 'als'\nseed = 0")
    path = write(tmp_path / "03_x.ipynb", "import math\nseed = 1", ASK)
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}})
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index, store_history=False)
    assert ast.literal_eval(notebook.cells[-1].outputs[0].text) == (
        "03_x", {"rank": 4, "method": "nls"},
    )  # fmt: skip


def test_outside_a_notebook_it_is_an_error():
    with pytest.raises(RuntimeError, match="in a notebook's kernel; this is none"):
        own_parameters()


def test_a_cell_of_parameters_that_no_file_has_is_told_of(tmp_path):
    gone = "import pathlib\nfor p in pathlib.Path.cwd().glob('*.ipynb'):\n    p.unlink()"
    path = write(tmp_path / "03_x.ipynb", gone, ASK)
    with pytest.raises(NotebookError, match="no notebook in .* that was executed here.*save"):
        run_notebook(path, tmp_path / "out" / "x.ipynb", progress=False)
