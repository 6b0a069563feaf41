"""Runs of many notebooks, and of one notebook over a grid of parameters, here or on a cluster.

    .venv/bin/python -m cpnb sweep notebooks/00_quickstart.ipynb -p epochs 2 --grid rank=16,32,64

executes the notebook once for every point of the grid into results/local. Names and types of all
parameters are checked before anything runs; runs that have finished before are not repeated. How
it works, and how it is taken to a cluster, is told in README.md beside this file.
"""

from __future__ import annotations

import queue
import sys
from pathlib import Path

import lazy_loader

from cpnb.runs.arguments import parse
from cpnb.runs.display import Display
from cpnb.runs.engine import Sweep
from cpnb.runs.grids import grid_points
from cpnb.runs.outcomes import GridError, NotebookError, Run
from cpnb.runs.parameters import (
    UnknownParameterError,
    check_parameters,
    load_parameters,
    notebook_parameters,
)
from cpnb.runs.points import Limits, Point, check_folder, check_outputs, points_of
from cpnb.runs.pool import Processes
from cpnb.runs.signals import patient
from cpnb.runs.telling import dry_run, say, status, table

# Papermill takes seconds to load, and the command line starts it in processes of its own.
__getattr__, _, _ = lazy_loader.attach("cpnb.runs", submod_attrs={
    "notebooks": ["run_in_place", "run_notebook"],
})  # fmt: skip

__all__ = [  # noqa: F822 (of the names loaded later)
    "GridError", "NotebookError", "Run", "UnknownParameterError", "check_parameters",
    "load_parameters", "notebook_parameters", "run_grid", "run_in_place", "run_notebook",
]  # fmt: skip


def run_grid(path, grid, output_dir, *, parameters=None, jobs=1, timeout=None, memory=None,
             scheduler=None, retry=1, force=False, progress=True) -> list[Run]:  # fmt: skip
    """Execute a notebook once for every combination of parameter values.

    Each run is a process of its own. Its rows of records go to ``records.jsonl`` in `output_dir`,
    and what has become of it to ``runs.jsonl``; :func:`cpnb.records.load` reads both.

    Parameters
    ----------
    path : path-like
        The notebook.
    grid : dict of str to sequence, or list of dict
        Parameter name to the values it takes; or the points themselves.
    output_dir : path-like
        Folder of the executed notebooks, one a point, named after all parameters that differ from
        the notebook's defaults.
    parameters : dict, optional
        Values that are the same for all points.
    jobs : int
        How many points run side by side on this machine; they share its cores. A notebook that is
        tagged ``timing`` in its metadata runs alone all the same.
    timeout : float, optional
        Seconds that a run may take.
    memory : int, optional
        Bytes that a run's kernel, and what that starts, may use.
    scheduler : str or distributed.Client, optional
        A Dask cluster to run the points on, in place of this machine.
    retry : int
        How often a point is started again that lost its process or its worker.
    force : bool
        Run points that have finished before, too.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of Run
        In order of the grid.

    Raises
    ------
    UnknownParameterError, TypeError, ValueError
        If grid or parameters do not fit the notebook; nothing has run then.
    GridError
        If points failed; all the others have run.
    ConnectionError
        If no scheduler answers, or its workers have other versions of cpnb or PyTorch.
    """
    path, folder = (Path(p).expanduser().resolve() for p in (path, output_dir))
    fixed = parameters or {}
    given = grid_points(grid) if isinstance(grid, dict) else list(grid)
    twice = sorted({name for point in given for name in point} & set(fixed))
    if twice:
        raise ValueError(f"{', '.join(twice)}: in both grid and parameters")
    if jobs < 1:
        raise ValueError(f"jobs={jobs}; accepted is a number from 1")
    points = points_of(path, [fixed | point for point in given], folder)
    check_folder(folder)
    check_outputs(points)
    display = Display(len(points), path.stem if progress else None, jobs)
    limits = Limits(timeout, memory, force)
    results = _sweep(points, limits, display, jobs, scheduler, retry).run()
    return _all_or_error(path.name, points, given, results)


def _all_or_error(name: str, points: list[Point], given: list[dict], results: dict) -> list[Run]:
    found = [results[point] for point in points]
    failures = [(given[i], r) for i, r in enumerate(found) if isinstance(r, str)]
    if failures:
        told = "\n".join(f"- {point}: {message}" for point, message in failures)
        raise GridError(
            f"{name}: {len(failures)} of {len(points)} points failed\n{told}",
            [None if isinstance(r, str) else r for r in found],
            failures,
        )
    return found


def _sweep(points, limits: Limits, display: Display, jobs: int, scheduler, retry: int) -> Sweep:
    events = queue.Queue()
    if scheduler is None:
        runner = Processes(jobs, limits, events)
    else:
        from cpnb.runs.cluster import Cluster  # here: it needs the extra "dask"

        runner = Cluster(scheduler, limits, events, {point.path for point in points})
    return Sweep(points, runner, events, display, retry, limits.force)


def main(arguments=None) -> int:
    """Command line of this module; see the module's description."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    if options.status or options.table:
        return status(options.status) if options.status else table(options.table)
    points, limits = options.points, options.limits
    if options.dry_run:
        return dry_run(points, limits.force, options.jobs)
    title = points[0].path.stem if len({p.path for p in points}) == 1 else "sweep"
    display = Display(len(points), title, options.jobs, say)
    try:
        sweep = _sweep(points, limits, display, options.jobs, options.scheduler, options.retry)
    except ConnectionError as error:
        display.close()
        print(f"python -m cpnb sweep: {error}", file=sys.stderr)
        return 2
    try:
        with patient(sweep):
            results = sweep.run()
    except KeyboardInterrupt:
        results = sweep.results
    except ConnectionError as error:
        print(f"python -m cpnb sweep: {error}", file=sys.stderr)
        results = sweep.results
    left = len(points) - len(results)
    if left:
        told = f"{left} of {len(points)} points were not run; the same command goes on with them"
        print(told, file=sys.stderr)
    failed = any(isinstance(result, str) for result in results.values())
    return 130 if left else int(failed)
