"""Runs of many notebooks, and of one notebook over a grid of parameters, here or on a cluster.

    python -m cpnb sweep notebooks/03_decompose.ipynb -p layer conv2 --grid rank=16,32,64

executes the notebook once for every point of the grid into results/local. Names and types of all
parameters are checked before anything runs; runs that have finished before are not repeated.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import itertools
import json
import re
import sys
from concurrent.futures import Executor, as_completed
from pathlib import Path

from tqdm.auto import tqdm

from cpnb.runs.notebooks import NotebookError, Run, run_in_place, run_notebook
from cpnb.runs.parameters import (
    UnknownParameterError,
    check_parameters,
    load_parameters,
    notebook_parameters,
)
from cpnb.runs.records import plain, results_folder

__all__ = [
    "GridError", "NotebookError", "Run", "UnknownParameterError", "check_parameters",
    "load_parameters", "notebook_parameters", "run_grid", "run_in_place", "run_notebook",
]  # fmt: skip

WORDS = {"true": True, "false": False, "none": None, "null": None}


class GridError(RuntimeError):
    """Points of a grid that failed, after all the others have run.

    Attributes
    ----------
    runs : list of Run or None
        One entry a point, in order of the grid; None where the point failed.
    failures : list of (dict, str)
        Parameters and message of each failed point.
    """

    def __init__(self, message, runs=(), failures=()):
        super().__init__(message)
        self.runs, self.failures = list(runs), list(failures)


def grid_points(grid: dict) -> list[dict]:
    """All combinations of a grid, the last name changing fastest.

    Raises
    ------
    ValueError
        If a name has no list of values, an empty one, or one with a value twice.
    """
    grid = plain(grid, "grid")
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"grid[{name!r}]={values!r}; accepted is a list of one value or more")
        if len({json.dumps(value, sort_keys=True) for value in values}) < len(values):
            raise ValueError(f"grid[{name!r}]={values!r} lists a value twice")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _point_name(stem: str, point: dict) -> str:
    """File name that tells the point, such as 03_decompose__rank=16__method=nls.ipynb."""
    parts = [f"{name}={value}" for name, value in point.items()]
    name = "__".join([stem, *(re.sub(r"[^\w.=+-]+", "-", part).strip("-") for part in parts)])
    if len(name) > 120 or name != "__".join([stem, *parts]):  # shortened: keep names distinct
        digest = hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()
        name = f"{name[:110]}__{digest[:8]}"
    return f"{name}.ipynb"


def _attempt(path, output, parameters, force, progress) -> Run | str:
    """The run, or the message of its failure: what a worker can always send back."""
    try:
        return run_notebook(path, output, parameters, force=force, progress=progress)
    except NotebookError as error:
        return str(error)


def run_grid(path, grid, output_dir, executor: Executor | None = None, *, parameters=None,
             force=False, progress=True) -> list[Run]:  # fmt: skip
    """Execute a notebook once for every combination of parameter values.

    Parameters
    ----------
    path : path-like
        The notebook.
    grid : dict of str to sequence
        Parameter name to the values it takes.
    output_dir : path-like
        Folder of the executed notebooks, one a point, named after it.
    executor : concurrent.futures.Executor, optional
        Where the points run; one after the other in this process by default. A Dask cluster serves
        by ``client.get_executor()``; its workers need this project and the output folder at the
        same paths. Points that run side by side on one machine share its cores, which spoils
        measured latencies.
    parameters : dict, optional
        Values that are the same for all points.
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
    """
    path, folder = Path(path).resolve(), Path(output_dir).resolve()
    points = grid_points(grid)
    twice = sorted(set(grid) & set(parameters or {}))
    if twice:
        raise ValueError(f"{', '.join(twice)}: in both grid and parameters")
    tasks = []
    for point in points:
        given = check_parameters(path, (parameters or {}) | point)
        tasks.append((path, folder / _point_name(path.stem, point), given, force))
    results = _run_tasks(tasks, executor, path.stem if progress else None)
    failures = [(points[i], r) for i, r in enumerate(results) if isinstance(r, str)]
    if failures:
        told = "\n".join(f"- {point}: {message}" for point, message in failures)
        raise GridError(
            f"{path.name}: {len(failures)} of {len(points)} points failed\n{told}",
            [None if isinstance(r, str) else r for r in results],
            failures,
        )
    return results


def _run_tasks(tasks, executor, title: str | None) -> list[Run | str]:
    bar = {"desc": title, "unit": "run", "total": len(tasks), "disable": title is None}
    if executor is None:
        return [_attempt(*task, title is not None) for task in tqdm(tasks, **bar)]
    futures = [executor.submit(_attempt, *task, False) for task in tasks]
    try:
        for _ in tqdm(as_completed(futures), **bar):
            pass
    finally:  # An interrupt must not leave the queued points to run on.
        for future in futures:
            future.cancel()
    return [_result(future) for future in futures]


def _result(future) -> Run | str:
    try:
        return future.result()
    except Exception as error:  # The worker itself was lost, not the notebook's fault.
        return f"{type(error).__name__}: {error}"


def _value(text: str, default):
    """A value of the command line: text for a text parameter, else a Python literal if so."""
    if isinstance(default, str):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return WORDS.get(text.lower(), text)


def _values(text: str, default) -> list:
    """Values of one grid axis: 16,32 or nls,als or [1,2],[3,4]."""
    if not isinstance(default, str):
        try:
            return list(ast.literal_eval(f"[{text}]"))
        except (ValueError, SyntaxError):
            pass
    return [_value(part.strip(), default) for part in text.split(",")]


def _jobs(options) -> list[tuple]:
    """What the command line asks for, checked: (notebook, parameters, grid), one a notebook."""
    for notebook in options.notebooks:
        if not notebook.is_file():
            raise ValueError(f"no such notebook: {notebook}")
    shared = load_parameters(options.parameters, options.notebooks) if options.parameters else {}
    jobs = []
    for notebook in options.notebooks:
        defaults = notebook_parameters(notebook)
        given = {name: _value(text, defaults.get(name)) for name, text in options.parameter}
        grid = {}
        for axis in options.grid:
            name, separator, text = axis.partition("=")
            if not separator:
                raise ValueError(f"--grid {axis}: expected name=value,value,...")
            grid[name] = _values(text, defaults.get(name))
        fixed = {k: v for k, v in shared.get(notebook.stem, {}).items() if k not in grid} | given
        for point in grid_points(grid):
            check_parameters(notebook, fixed | point)
        jobs.append((notebook, fixed, grid))
    return jobs


def _run_job(notebook, parameters, grid, options) -> list[Run]:
    if options.in_place:
        return [run_in_place(notebook)]
    if grid:
        return run_grid(notebook, grid, options.out, parameters=parameters, force=options.force)
    return [run_notebook(notebook, options.out / notebook.name, parameters, force=options.force)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cpnb sweep", description="Run notebooks.")
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    parser.add_argument(
        "--parameters", type=Path, metavar="FILE", help="YAML, notebook: parameters"
    )
    parser.add_argument(
        "-p",
        dest="parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of every notebook given",
    )
    parser.add_argument(
        "--grid",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=V1,V2",
        help="run every combination of these values",
    )
    parser.add_argument("--out", type=Path, help="folder of executed notebooks (results/local)")
    parser.add_argument("--force", action="store_true", help="repeat finished runs")
    parser.add_argument(
        "--in-place",
        action="store_true",
        help="execute with defaults and keep the outputs in the notebook itself",
    )
    return parser


def main(arguments=None) -> int:
    """Command line of this module; see the module's description."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.in_place and (options.parameters or options.parameter or options.grid):
        parser.error("--in-place runs with the defaults; it takes no parameters or grid")
    options.out = options.out or results_folder()
    try:
        jobs = _jobs(options)
    except (ValueError, TypeError, OSError) as error:
        parser.error(str(error))
    failed = 0
    for notebook, parameters, grid in jobs:
        try:
            for run in _run_job(notebook, parameters, grid, options):
                told = "finished before" if run.skipped else f"{run.seconds:.0f} s"
                print(f"{told:>16}  {run.output}")
        except (NotebookError, GridError) as error:
            failed += 1
            print(f"{'failed':>16}  {error}", file=sys.stderr)
    return 1 if failed else 0
