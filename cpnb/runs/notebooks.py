"""Execution of one notebook by papermill, with parameters or in place.

A run is whole or absent: the executed notebook appears under its final name only when every cell
has run and succeeded, and a finished run is not repeated while nothing that it depends on has
changed (see `keys`).
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from papermill.exceptions import PapermillExecutionError
from papermill.execute import execute_notebook
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets import default

from cpnb.runs.kernels import EndsWhenAsked
from cpnb.runs.keys import Inputs, inputs
from cpnb.runs.parameters import check_parameters
from cpnb.runs.progress import AS_TEXT, PROGRESS_BAR, Relay, lines_of
from cpnb.runs.records import results_folder

PLACES = ("CPNB_DATA", "CPNB_RESULTS", "CPNB_CACHE")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
RUN_METADATA = ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


class NotebookError(RuntimeError):
    """A notebook that failed; the message names it, the cell and the exception."""


class _StoppedError(Exception):
    """A run that ended early though by no error; `cell` is the one that did so."""

    def __init__(self, cell, message):
        super().__init__(message)
        self.cell = cell


@dataclass(frozen=True)
class Run:
    """A finished run: executed notebook, parameters given, seconds, and if it was there before."""

    output: Path
    parameters: dict
    seconds: float
    skipped: bool


class _ThisInterpreter(EndsWhenAsked):
    """Starts kernels with the running interpreter, whatever kernel specs the user has installed."""

    @property
    def kernel_spec(self):
        # Kernels work in the notebook's folder: there a relative path would lead somewhere else.
        given = {name: os.environ[name] for name in PLACES if os.environ.get(name)}
        absolute = {name: str(Path(path).expanduser().absolute()) for name, path in given.items()}
        return KernelSpec(**get_kernel_dict(), env=absolute | {AS_TEXT: "1"})

    @default("transport_encryption")
    def _encrypt_where_the_installed_version_can(self):
        return "auto"


def _is_finished(output: Path, now: Inputs) -> bool:
    try:
        about = json.loads(output.read_text(encoding="utf-8"))["metadata"]["cpnb"]
        return about["key"] == now.key(about["written"])
    except (OSError, ValueError, KeyError, TypeError):
        return False  # Absent, not a notebook, or from another tool: to be run.


def _is_progress_bar(output) -> bool:
    if output.output_type == "stream" and output.name == "stderr":
        text = "".join(output.text)
    elif WIDGET_VIEW in output.get("data", {}):
        text = "".join(output.data.get("text/plain", ""))
    else:
        return False
    return all(PROGRESS_BAR.search(line) for line in lines_of(text))


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


def _refuse_exit(cell, execute_reply, **_) -> None:
    """Stop at a cell that ends the kernel or the run: the rest of the notebook would be missing.

    Papermill takes SystemExit(0) for a good end, and a kernel that is told to exit dies later, when
    it may have run some more cells or all.
    """
    reply = execute_reply["content"]
    asked = [p for p in reply.get("payload", []) if p.get("source") == "ask_exit"]
    expected = "raises-exception" in cell.metadata.get("tags", [])
    if any(not payload.get("keepkernel") for payload in asked):
        raise _StoppedError(cell, "stopped early by exit() or quit()")
    if reply.get("ename") == "SystemExit" and not expected:
        raise _StoppedError(cell, f"stopped early by sys.exit({reply['evalue']})")


def _refuse_gaps(notebook) -> None:
    """See to it that every cell with code has run, but for those tagged to be skipped."""
    for cell in notebook.cells:
        code = cell.cell_type == "code" and cell.source.strip()
        skip = "skip-execution" in cell.metadata.get("tags", [])
        if code and not skip and cell.execution_count is None:
            raise _StoppedError(cell, "stopped early: this cell was never run")


def _failure(path: Path, partial: Path, error: Exception) -> str:
    """Which cell failed, and how; of a kernel that died, the notebook tells the last cell begun."""
    if isinstance(error, PapermillExecutionError):
        told = f"{error.ename}: {error.evalue}"
        return f"{path.name}, {_cell(error.exec_count, error.source)}: {told}"
    if isinstance(error, _StoppedError):
        return f"{path.name}, {_cell(error.cell.execution_count, error.cell.source)}: {error}"
    begun = [
        cell.source
        for cell in nbformat.read(partial, as_version=4).cells
        if cell.metadata.get("papermill", {}).get("start_time") and cell.source.strip()
    ]
    last = f", {_cell(None, begun[-1])}" if begun else ""
    return f"{path.name}{last}: {type(error).__name__}: {error}"


def _cell(count: int | None, source: str) -> str:
    number = "" if count is None else f"In [{count}] "
    return f"cell {number}({source.strip().splitlines()[0]})"


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
    bars = Relay() if progress else None
    try:
        # The kernel's folder goes in by `resources`; papermill's own `cwd` would move this process
        # and with it every other thread that runs a notebook.
        notebook = execute_notebook(
            pattern,
            pattern,
            kernel_name=KERNEL["name"],
            language="python",
            progress_bar={"desc": path.stem} if progress else False,
            stderr_file=bars,
            kernel_manager_class=_ThisInterpreter,
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_executed=_refuse_exit,
        )
        _refuse_gaps(notebook)
    except Exception as error:
        failed = output.with_name(f"{output.stem}.failed.ipynb")
        message = _failure(path, partial, error)
        os.replace(partial, failed)
        raise NotebookError(f"{message}\nThe notebook as far as it ran: {failed}") from error
    finally:
        if bars:
            bars.close()
    partial.unlink()
    _drop_outputs(notebook, _is_progress_bar)
    for name in ("input_path", "output_path"):  # these name the partial notebook
        notebook.metadata.papermill.pop(name, None)
    return notebook


def run_notebook(path, output, parameters=None, *, force=False, progress=True) -> Run:
    """Execute a notebook with parameters and write it, executed, to `output`.

    The kernel is the running interpreter's and works in the notebook's folder. A run that finished
    before is not repeated while all that it depends on is the same: the notebook and the modules
    beside it that it uses, parameters and the files that they name, data sets, cpnb, versions of
    packages; :mod:`cpnb.runs.keys` says what counts and what does not.

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
        If a cell fails, the kernel dies, or a cell ends the run early, as by ``sys.exit(0)`` or
        ``exit()``. The notebook as far as it ran is kept beside `output`
        as `<name>.failed.ipynb`; an earlier `output` stays as it is.
    """
    path, output = (Path(p).expanduser().resolve() for p in (path, output))
    if path == output:
        raise ValueError(f"output={str(output)!r} is the notebook itself; see run_in_place")
    parameters = check_parameters(path, parameters or {})
    before = inputs(path, parameters)
    if not force and _is_finished(output, before):
        return Run(output, parameters, 0.0, skipped=True)
    start = time.perf_counter()
    notebook = _execute(path, output, parameters, progress)
    seconds = time.perf_counter() - start
    written = before.written()
    notebook.metadata["cpnb"] = {
        "key": before.key(written),
        "written": written,
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
    path = Path(path).expanduser().resolve()
    check_parameters(path, {})
    start = time.perf_counter()
    # Partial and failed notebooks stay out of the folder of the committed ones.
    notebook = _execute(path, results_folder() / "in-place" / path.name, {}, progress)
    _strip_run_metadata(notebook)
    _write(notebook, path)
    return Run(path, {}, time.perf_counter() - start, skipped=False)
