"""Execution of one notebook by papermill, with parameters or in place.

A run is whole or absent: the executed notebook appears under its final name only when every cell
has succeeded, and a finished run of the same source, parameters and code is not repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError
from papermill.execute import execute_notebook
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets import default

from cpnb.runs.parameters import check_parameters
from cpnb.runs.places import PACKAGE, shipped
from cpnb.runs.records import results_folder

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
RUN_METADATA = ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
# "epoch 3:  40%|####  | 4/10 [00:02<00:03]" or, without a total, "17it [00:02, 8.1it/s]"
PROGRESS_BAR = re.compile(r"\d+%\|.*\||\d+\S* \[\d\d:\d\d")
TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class NotebookError(RuntimeError):
    """A notebook that failed; the message names it, the cell and the exception."""


@dataclass(frozen=True)
class Run:
    """A finished run: executed notebook, parameters given, seconds, and if it was there before."""

    output: Path
    parameters: dict
    seconds: float
    skipped: bool


class _ThisInterpreter(AsyncKernelManager):
    """Starts kernels with the running interpreter, whatever kernel specs the user has installed."""

    @property
    def kernel_spec(self):
        return KernelSpec(**get_kernel_dict())

    @default("transport_encryption")
    def _encrypt_where_the_installed_version_can(self):
        return "auto"


def _code_and_data() -> list[Path]:
    data = shipped("data")
    return sorted([*PACKAGE.rglob("*.py"), *data.glob("*.safetensors"), *data.glob("*.npz")])


def _run_key(path: Path, parameters: dict) -> str:
    """Hash of all that decides what a run gives: cells, parameters, cpnb, the data that ships."""
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    for notebook in [path, *_notebooks_named_in(path)]:
        for cell in nbformat.read(notebook, as_version=4).cells:
            digest.update(f"{cell.cell_type}\0{cell.source}\0".encode())
    for file in _code_and_data():
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _notebooks_named_in(path: Path) -> list[Path]:
    """Notebooks beside `path` that its code names: a sweep depends on the one it runs."""
    cells = nbformat.read(path, as_version=4).cells
    code = "".join(cell.source for cell in cells if cell.cell_type == "code")
    return [p for p in sorted(path.parent.glob("*.ipynb")) if f'"{p.name}"' in code and p != path]


def _is_finished(output: Path, key: str) -> bool:
    try:
        notebook = json.loads(output.read_text(encoding="utf-8"))
        return notebook["metadata"]["cpnb"]["key"] == key
    except (OSError, ValueError, KeyError, TypeError):
        return False  # Absent, not a notebook, or from another tool: to be run.


def _is_progress_bar(output) -> bool:
    if output.output_type == "stream" and output.name == "stderr":
        text = "".join(output.text)
    elif WIDGET_VIEW in output.get("data", {}):
        text = "".join(output.data.get("text/plain", ""))
    else:
        return False
    lines = [line for line in re.split(r"[\r\n]", TERMINAL_CODE.sub("", text)) if line.strip()]
    return all(PROGRESS_BAR.search(line) for line in lines)


def _drop_outputs(notebook, unwanted) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not unwanted(output)]


def _strip_run_metadata(notebook) -> None:
    """Leave nothing that differs from run to run or from machine to machine, save the outputs."""
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    for cell in notebook.cells:
        for name in RUN_METADATA:
            cell.metadata.pop(name, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
    # Without widget state, which is not kept, a widget shows as an error.
    _drop_outputs(notebook, lambda output: WIDGET_VIEW in output.get("data", {}))


def _write(notebook, path: Path) -> None:
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(nbformat.writes(notebook) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _failure(path: Path, partial: Path, error: Exception) -> str:
    """Which cell failed, and how; of a kernel that died, the notebook tells the last cell begun."""
    if isinstance(error, PapermillExecutionError):
        line = error.source.strip().splitlines()[0]
        return f"{path.name}, cell In [{error.exec_count}] ({line}): {error.ename}: {error.evalue}"
    begun = [
        cell.source.strip().splitlines()[0]
        for cell in nbformat.read(partial, as_version=4).cells
        if cell.metadata.get("papermill", {}).get("start_time") and cell.source.strip()
    ]
    last = f", cell ({begun[-1]})" if begun else ""
    return f"{path.name}{last}: {type(error).__name__}: {error}"


def _execute(path: Path, output: Path, parameters: dict, progress: bool):
    """Execute by way of a partial notebook beside the output; return the executed notebook."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.stem}.partial.ipynb")
    notebook = load_notebook_node(str(path))
    if parameters:  # Not by execute_notebook: it guesses at known names and warns at wrong guesses.
        notebook = parameterize_notebook(
            notebook, parameters, kernel_name=KERNEL["name"], language="python"
        )
    _write(notebook, partial)
    pattern = str(partial).replace("{", "{{").replace("}", "}}")  # papermill formats paths
    try:
        # The kernel's folder goes in by `resources`; papermill's own `cwd` would move this process
        # and with it every other thread that runs a notebook.
        notebook = execute_notebook(
            pattern,
            pattern,
            kernel_name=KERNEL["name"],
            language="python",
            progress_bar={"desc": path.stem} if progress else False,
            kernel_manager_class=_ThisInterpreter,
            resources={"metadata": {"path": str(path.parent)}},
        )
    except Exception as error:
        failed = output.with_name(f"{output.stem}.failed.ipynb")
        message = _failure(path, partial, error)
        os.replace(partial, failed)
        raise NotebookError(f"{message}\nThe notebook as far as it ran: {failed}") from error
    partial.unlink()
    _drop_outputs(notebook, _is_progress_bar)
    for name in ("input_path", "output_path"):  # these name the partial notebook
        notebook.metadata.papermill.pop(name, None)
    return notebook


def run_notebook(path, output, parameters=None, *, force=False, progress=True) -> Run:
    """Execute a notebook with parameters and write it, executed, to `output`.

    The kernel is the running interpreter's and works in the notebook's folder. A run that finished
    before with the same notebook, parameters, cpnb and shipped data is not repeated.

    Parameters
    ----------
    path, output : path-like
        The notebook, and where the executed one goes.
    parameters : dict, optional
        Name to value, for those that differ from the defaults.
    force : bool
        Run even if the same run has finished before.
    progress : bool
        Show a progress bar over the cells.

    Raises
    ------
    UnknownParameterError, TypeError
        If a parameter is unknown or mistyped; see `check_parameters`.
    NotebookError
        If a cell fails or the kernel dies. The notebook as far as it ran is kept beside `output`
        as `<name>.failed.ipynb`; an earlier `output` stays as it is.
    """
    path, output = Path(path).resolve(), Path(output).resolve()
    if path == output:
        raise ValueError(f"output={str(output)!r} is the notebook itself; see run_in_place")
    parameters = check_parameters(path, parameters or {})
    key = _run_key(path, parameters)
    if not force and _is_finished(output, key):
        return Run(output, parameters, 0.0, skipped=True)
    start = time.perf_counter()
    notebook = _execute(path, output, parameters, progress)
    seconds = time.perf_counter() - start
    notebook.metadata["cpnb"] = {
        "key": key,
        "notebook": path.name,
        "parameters": parameters,
        "seconds": round(seconds, 1),
    }
    _write(notebook, output)
    output.with_name(f"{output.stem}.failed.ipynb").unlink(missing_ok=True)
    return Run(output, parameters, seconds, skipped=False)


def run_in_place(path, *, progress=True) -> Run:
    """Execute a notebook with its defaults and keep its outputs, without metadata of the run.

    The file is replaced at the end; a run that fails leaves it as it was, keeps the notebook as far
    as it ran in the results folder, and raises as `run_notebook` does.
    """
    path = Path(path).resolve()
    check_parameters(path, {})
    start = time.perf_counter()
    # Partial and failed notebooks stay out of the folder of the committed ones.
    notebook = _execute(path, results_folder() / "in-place" / path.name, {}, progress)
    _strip_run_metadata(notebook)
    _write(notebook, path)
    return Run(path, {}, time.perf_counter() - start, skipped=False)
