"""A point on a Dask worker: a process of its own there too, in the worker's own work folder."""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import distributed

import cpnb
from cpnb.runs.bundle import SETS, unpack
from cpnb.runs.jsonl import read
from cpnb.runs.pool import cores, events_of, start


class Bundle(distributed.WorkerPlugin):
    """Unpacks a bundle on every worker, also on one that comes later."""

    def __init__(self, content: bytes):
        self.content = content

    def setup(self, worker) -> None:
        """Unpack it in the worker's own folder."""
        unpack(self.content, Path(worker.local_directory))


def run(task: dict, wanted: dict) -> dict:
    """Run a point, and bring back its last event, the executed notebook and the rows it recorded.

    Parameters
    ----------
    task : dict
        As for `cpnb.runs.worker`; with the bundle that the notebook is in, and the label and topic
        under which events are told.
    wanted : dict
        Versions of cpnb and PyTorch, for workers that came after the sweep began.
    """
    here = {"cpnb": cpnb.__version__, "torch": importlib.metadata.version("torch")}
    if here != wanted:
        raise RuntimeError(f"this worker has {here}, and the sweep {wanted}")
    worker = distributed.get_worker()
    work = Path(tempfile.mkdtemp(prefix="point-", dir=worker.local_directory))
    try:
        return _run(task, work, worker)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run(task: dict, work: Path, worker) -> dict:
    unpacked = task["bundle"] and Path(worker.local_directory) / task["bundle"]
    path, variables = _place(Path(task["path"]), unpacked)
    output = work / Path(task["output"]).name
    # Workers of one thread each are started as many as there are cores; one of more shares them.
    threads = max(1, cores() // worker.state.nthreads)
    there = {"path": str(path), "output": str(output), "records": str(work)}
    process = start(task | there, None if task["alone"] else threads, variables)
    watching = (worker, worker.get_current_task(), process)
    threading.Thread(target=_end_unwanted, args=watching, daemon=True).start()
    last = {}
    for event in events_of(process):
        last = event
        if "finished" not in event and "failed" not in event:
            worker.log_event(task["topic"], event | {"label": task["label"]})
    with suppress(OSError):
        process.stdin.close()
    if "finished" in last:
        last["finished"]["threads"] = threads
    return {"event": last} | _results(output)


def _end_unwanted(worker, key: str, process) -> None:
    """End the process when the sweep has taken the point back, or is gone."""
    while process.poll() is None:
        task = worker.state.tasks.get(key)
        if task is None or task.state != "executing":
            with suppress(OSError):
                process.stdin.close()
            return
        time.sleep(0.5)


def _results(output: Path) -> dict:
    failed = output.with_name(f"{output.stem}.failed.ipynb")
    kept = next((file for file in (output, failed) if file.exists()), None)
    rows = output.with_name("records.jsonl")
    return {
        "notebook": kept.read_bytes() if kept else None,
        "rows": read(rows) if rows.exists() else [],
    }


def _place(path: Path, unpacked: Path | None) -> tuple[Path, dict]:
    """Where the notebook lies here: at its own path, on a disk that is shared, or unpacked."""
    if unpacked is None:
        return path, {}
    ours = unpacked / "notebooks" / path.parent.name / path.name
    with suppress(OSError):
        if path.read_bytes() == ours.read_bytes():
            return path, {}
    sets = unpacked / SETS
    return ours, {"CPNB_DATA": str(sets)} if sets.is_dir() else {}
