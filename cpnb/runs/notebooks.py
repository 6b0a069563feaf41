"""Runs of one notebook, with parameters or in place.

A run is whole or absent: the executed notebook appears under its final name, and the rows that it
has recorded in the records, only when every cell has run and succeeded; and a finished run is not
repeated while nothing that it depends on has changed (see `keys`).
"""

from __future__ import annotations

import contextlib
import datetime
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nbformat

from cpnb.runs.execution import KERNEL, WIDGET_VIEW, Job, drop_outputs, execute
from cpnb.runs.files import write_whole
from cpnb.runs.jsonl import append_all, read
from cpnb.runs.keys import Inputs, inputs
from cpnb.runs.outcomes import NotebookError, Run
from cpnb.runs.parameters import check_parameters, notebook_parameters
from cpnb.runs.records import results_folder
from cpnb.runs.states import is_finished

RUN_METADATA = ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled")


def new_run() -> str:
    """A name for a run: when it began, and what tells it from others of that second."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def job_of(path: Path, output: Path, parameters: dict, records: Path, **options) -> Job:
    """A job with a run of its own, whose rows tell all parameters, defaults too."""
    staged = output.with_name(f".{output.stem}.records.tmp")
    staged.unlink(missing_ok=True)  # of a run that was killed
    run = {
        "run": new_run(),
        "output": output.name,
        "parameters": notebook_parameters(path) | parameters,
        "staged": str(staged),
    }
    return Job(path, output, parameters, run, records, **options)


def _join_streams(notebook) -> None:
    """One output where a text came in several messages: how it is cut differs from run to run."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        joined = []
        for output in cell.outputs:
            stream = output.output_type == "stream"
            if stream and joined and joined[-1].get("name") == output.name:
                joined[-1].text += output.text
            else:
                joined.append(output)
        cell.outputs = joined


def _strip_run_metadata(notebook) -> None:
    """Leave nothing that differs from run to run or from machine to machine, save the outputs."""
    tags = {"tags": notebook.metadata.tags} if "tags" in notebook.metadata else {}
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}} | tags
    )
    for cell in notebook.cells:
        for name in RUN_METADATA:
            cell.metadata.pop(name, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
    # Without widget state, which is not kept, a widget shows as an error.
    drop_outputs(notebook, lambda output: WIDGET_VIEW in output.get("data", {}))


@contextlib.contextmanager
def _staged(job: Job):
    """The file of rows that the run makes; what remains of a failed one goes."""
    staged = Path(job.run["staged"])
    try:
        yield staged
    finally:
        staged.unlink(missing_ok=True)


def _keep(job: Job, staged: Path, notebook, target: Path) -> None:
    """Rows first: should this process die in between, the run is repeated, and its rows count."""
    try:
        if staged.exists():
            append_all(read(staged), job.records / "records.jsonl")
        write_whole(target, nbformat.writes(notebook) + "\n")
    except OSError as error:
        raise NotebookError(f"{job.path.name}: its results cannot be kept: {error}") from error
    job.failed.unlink(missing_ok=True)


def perform(job: Job, before: Inputs, home: str = "", named: dict | None = None) -> Run:
    """Run a job whether or not it has finished before, and keep what comes out.

    On a worker of a cluster, `home` is where the notebook lies for the sweep, and `named` what the
    paths among the parameters lead to there.
    """
    start = time.perf_counter()
    with _staged(job) as staged:
        notebook = execute(job)
        seconds = time.perf_counter() - start
        written = before.written()
        notebook.metadata["cpnb"] = {
            "key": (before if named is None else replace(before, named=named)).key(written),
            "written": written,
            "notebook": job.path.name,
            "path": home or str(job.path),
            "parameters": job.parameters,
            "run": job.run["run"],
            "seconds": round(seconds, 1),
        }
        _keep(job, staged, notebook, job.output)
    return Run(job.output, job.parameters, seconds, skipped=False)


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
    if not force and is_finished(output, before):
        return Run(output, parameters, 0.0, skipped=True)
    job = job_of(path, output, parameters, results_folder(), progress=progress)
    return perform(job, before)


def run_in_place(path, *, progress=True, tell: Callable[[dict], None] | None = None) -> Run:
    """Execute a notebook with its defaults and keep its outputs, without metadata of the run.

    The file is replaced at the end; a run that fails leaves it as it was, keeps the notebook as far
    as it ran in the results folder, and raises as `run_notebook` does.
    """
    path = Path(path).expanduser().resolve()
    check_parameters(path, {})
    start = time.perf_counter()
    # Partial and failed notebooks stay out of the folder of the committed ones.
    output = results_folder() / "in-place" / path.name
    job = job_of(path, output, {}, results_folder(), progress=progress, tell=tell)
    with _staged(job) as staged:
        notebook = execute(job)
        _strip_run_metadata(notebook)
        _join_streams(notebook)
        _keep(job, staged, notebook, path)
    return Run(path, {}, time.perf_counter() - start, skipped=False)
