"""Execution of one notebook by papermill, by way of a partial notebook beside the output."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat.v4 import new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.execute import execute_notebook
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from zmq import Again

from cpnb.runs.cells import read_cells
from cpnb.runs.files import write_whole
from cpnb.runs.kernels import ThisInterpreter
from cpnb.runs.outcomes import NotebookError
from cpnb.runs.progress import PROGRESS_BAR, Relay, lines_of
from cpnb.runs.records import RUN

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
MOST = 10_000_000  # characters of output that are kept of one cell
ENGINE = "cpnb"


@dataclass(frozen=True)
class Job:
    """One execution: what runs, where the partial notebook goes, and who is told of it.

    Attributes
    ----------
    path, output : Path
        The notebook, and where the executed one will go.
    parameters : dict
        Those to be set, checked.
    run : dict
        What rows tell of the run, and the file (staged) that they go to until it has finished.
    records : Path
        Folder of results, which they go to then.
    progress : bool
        Show a bar over the cells.
    tell : callable, optional
        Called with {"cell", "of", "source"} when a cell begins, and {"bar"} for a bar inside.
    """

    path: Path
    output: Path
    parameters: dict
    run: dict
    records: Path
    progress: bool = False
    tell: Callable[[dict], None] | None = field(default=None, repr=False)

    @property
    def partial(self) -> Path:
        """The notebook while it runs."""
        return self.output.with_name(f".{self.output.stem}.partial.ipynb")

    @property
    def failed(self) -> Path:
        """The notebook as far as it ran."""
        return self.output.with_name(f"{self.output.stem}.failed.ipynb")


class _StoppedError(Exception):
    """A run that ended early though by no error; `cell` is the one that did so."""

    def __init__(self, cell, message):
        super().__init__(message)
        self.cell = cell


class _Client(PapermillNotebookClient):
    """Starts a kernel once more if need be, and keeps so much of a cell's output, not more."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._room = defaultdict(lambda: MOST)

    def start_new_kernel_client(self, **options):
        try:
            return super().start_new_kernel_client(**options)
        except (RuntimeError, Again):
            # It died, as where another process has taken one of its ports in the meantime.
            self.km = self.create_kernel_manager()
            self.start_new_kernel()
            return super().start_new_kernel_client(**options)

    def output(self, outs, msg, display_id, cell_index):
        content = msg["content"]
        size = len(content["text"] if "text" in content else str(content.get("data", "")))
        room = self._room[cell_index]
        self._room[cell_index] -= size
        if size <= room:
            return super().output(outs, msg, display_id, cell_index)
        if room < 0:
            return None  # said so before
        if "text" in content:
            content["text"] = content["text"][:room]
            super().output(outs, msg, display_id, cell_index)
        self._room[cell_index] = -1
        told = f"\n[Cut here: this cell has put out more than {MOST / 1e6:.0f} MB.]\n"
        outs.append(new_output("stream", name="stderr", text=told))
        return outs[-1]


class _Engine(NBClientEngine):
    """Papermill's own engine, but for the client."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, start_timeout=60, **options):
        options.pop("input_path", None)
        client = _Client(nb_man, kernel_name=kernel_name, startup_timeout=start_timeout, **options)
        return client.execute()


papermill_engines.register(ENGINE, _Engine)


class _Bars:
    """A file for the stderr of a running notebook: tells its newest bar."""

    def __init__(self, tell):
        self._tell = tell

    def write(self, text: str) -> None:
        bars = [line for line in lines_of(text) if PROGRESS_BAR.search(line)]
        if bars:
            self._tell({"bar": bars[-1]})

    def flush(self) -> None:
        """For those who take it for a file."""

    def close(self) -> None:
        """Likewise."""


def execute(job: Job):
    """Execute a notebook and return it.

    Raises
    ------
    NotebookError
        However it fails; as far as it ran it is kept beside the output, unless the disk is full.
    """
    try:
        return _execute(job)
    except Exception as error:
        message = _failure(job, error)
        try:
            read_cells(job.partial)  # a full disk has torn it, and shall not stay full
            os.replace(job.partial, job.failed)
            message += f"\nThe notebook as far as it ran: {job.failed}"
        except (OSError, ValueError):
            job.partial.unlink(missing_ok=True)
        raise NotebookError(message) from error


def _execute(job: Job):
    job.output.parent.mkdir(parents=True, exist_ok=True)
    notebook = load_notebook_node(str(job.path))
    if job.parameters:  # Not by execute_notebook: it guesses at names and warns at wrong guesses.
        notebook = parameterize_notebook(
            notebook, job.parameters, kernel_name=KERNEL["name"], language="python"
        )
    write_whole(job.partial, nbformat.writes(notebook) + "\n")
    pattern = str(job.partial).replace("{", "{{").replace("}", "}}")  # papermill formats paths
    bars = Relay() if job.progress else _Bars(job.tell) if job.tell else None
    try:
        # The kernel's folder goes in by `resources`; papermill's own `cwd` would move this process
        # and with it every other thread that runs a notebook.
        notebook = execute_notebook(
            pattern,
            pattern,
            engine_name=ENGINE,
            kernel_name=KERNEL["name"],
            language="python",
            progress_bar={"desc": job.path.stem} if job.progress else False,
            stderr_file=bars,
            kernel_manager_class=_kernel_of(job),
            resources={"metadata": {"path": str(job.path.parent)}},
            on_cell_start=_tell_cell(job, len(notebook.cells)),
            on_cell_executed=_refuse_exit,
        )
        _refuse_gaps(notebook)
    finally:
        if bars:
            bars.close()
    job.partial.unlink()
    drop_outputs(notebook, _is_progress_bar)
    for name in ("input_path", "output_path"):  # these name the partial notebook
        notebook.metadata.papermill.pop(name, None)
    return notebook


def _kernel_of(job: Job) -> type:
    given = {RUN: json.dumps(job.run), "CPNB_RESULTS": str(job.records)}
    return type("ThisInterpreter", (ThisInterpreter,), {"given": given})


def _tell_cell(job: Job, count: int):
    def tell(cell, cell_index) -> None:
        if cell.cell_type == "code" and job.tell and cell.source.strip():
            source = cell.source.strip().splitlines()[0]
            job.tell({"cell": cell_index + 1, "of": count, "source": source[:60]})

    return tell


def _is_progress_bar(output) -> bool:
    if output.output_type == "stream" and output.name == "stderr":
        text = "".join(output.text)
    elif WIDGET_VIEW in output.get("data", {}):
        text = "".join(output.data.get("text/plain", ""))
    else:
        return False
    return all(PROGRESS_BAR.search(line) for line in lines_of(text))


def drop_outputs(notebook, unwanted) -> None:
    """Take away the outputs that are unwanted, by a function of one."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not unwanted(output)]


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


def _failure(job: Job, error: Exception) -> str:
    """Which cell failed, and how; of a kernel that died, the notebook tells the last cell begun."""
    name = job.path.name
    if isinstance(error, PapermillExecutionError):
        told = f"{error.ename}: {error.evalue}"
        return f"{name}, {_cell(error.exec_count, error.source)}: {told}"
    if isinstance(error, _StoppedError):
        return f"{name}, {_cell(error.cell.execution_count, error.cell.source)}: {error}"
    begun = _begun(job.partial)
    last = f", {_cell(None, begun[-1])}" if begun else ""
    return f"{name}{last}: {type(error).__name__}: {error}"


def _begun(partial: Path) -> list[str]:
    """Sources of the cells that have begun; none if the notebook was torn, by a full disk, say."""
    try:
        cells = nbformat.read(partial, as_version=4).cells
    except Exception:
        return []
    started = [c for c in cells if c.metadata.get("papermill", {}).get("start_time")]
    return [cell.source for cell in started if cell.source.strip()]


def _cell(count: int | None, source: str) -> str:
    number = "" if count is None else f"In [{count}] "
    return f"cell {number}({source.strip().splitlines()[0]})"
