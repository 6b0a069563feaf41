"""The notebooks as they are committed, and their run through papermill with tiny parameters.

Their run at the defaults is nbval's, by `make test`.
"""

import re
from pathlib import Path

import nbformat
import pytest

from cpnb.runs.cells import measures_time
from cpnb.runs.sweep import load_parameters, notebook_parameters, run_notebook

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(p for p in FOLDER.glob("[0-9]*.ipynb") if not p.stem.endswith(".failed"))
TIMES = "measure_|versus|perf_counter|optimize_for_inference|run_grid"  # run_grid: of such ones
SIZES = ["smoke", "standard", "full"]
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def cells(path, kind="code"):
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


@each_notebook
def test_opens_with_a_title(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")


@each_notebook
def test_has_parameters_that_are_literals(path):
    assert notebook_parameters(path)


@each_notebook
def test_is_committed_executed_from_top_to_bottom(path):
    executed = [cell for cell in cells(path) if cell.source.strip()]
    assert [cell.execution_count for cell in executed] == list(range(1, len(executed) + 1))
    errors = [o.ename for cell in executed for o in cell.outputs if o.output_type == "error"]
    assert not errors


@each_notebook
def test_has_no_metadata_of_a_run(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) <= {"kernelspec", "language_info", "tags"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.language_info == {"name": "python"}
    assert all(
        not {"papermill", "execution", "ExecuteTime"} & set(c.metadata) for c in notebook.cells
    )
    tags = [tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])]
    assert "injected-parameters" not in tags


@each_notebook
def test_runs_alone_on_the_machine_if_it_measures_time(path):
    """`cpnb.runs.locks.machine` goes by the tag."""
    source = "".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    assert measures_time(path) == bool(re.search(TIMES, source))


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.stem < "10"], ids=lambda p: p.stem)
def test_has_a_cell_whose_output_nbval_compares(path):
    """With --nbval-lax the others only have to run."""
    assert any("nbval-check-output" in cell.metadata.get("tags", []) for cell in cells(path))


@pytest.mark.parametrize("size", SIZES)
def test_parameters_of_each_size_fit_the_notebooks(size):
    load_parameters(FOLDER / "parameters" / f"{size}.yaml", NOTEBOOKS or [FOLDER / "none.ipynb"])


ELSEWHERE = ("04_finetune", "07_alexnet")  # 06 runs the former; test_notebook_alexnet the latter


@pytest.mark.parametrize(
    "path", [p for p in NOTEBOOKS if p.stem not in ELSEWHERE], ids=lambda p: p.stem
)
def test_runs_with_tiny_parameters(path, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CPNB_RESULTS", str(tmp_path))
    given = load_parameters(FOLDER / "parameters" / "smoke.yaml", NOTEBOOKS)
    run = run_notebook(path, tmp_path / path.name, given.get(path.stem), progress=False)
    executed = [cell for cell in cells(run.output) if cell.source.strip()]
    assert all(cell.execution_count for cell in executed)
