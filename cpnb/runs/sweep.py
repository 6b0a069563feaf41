"""Runs of many notebooks, and of one notebook over a grid of parameters, here or on a cluster.

    python -m cpnb sweep notebooks/03_decompose.ipynb -p layer conv2 --grid rank=16,32,64

executes the notebook once for every point of the grid into results/local. Names and types of all
parameters are checked before anything runs; runs that have finished before are not repeated.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import Executor, as_completed
from pathlib import Path

from cpnb.runs.grids import grid_points, point_names, value_of, values_of
from cpnb.runs.notebooks import NotebookError, Run, run_in_place, run_notebook
from cpnb.runs.parameters import (
    UnknownParameterError,
    check_parameters,
    load_parameters,
    notebook_parameters,
)
from cpnb.runs.progress import in_notebook, progress_bar
from cpnb.runs.records import results_folder

__all__ = [
    "GridError", "NotebookError", "Run", "UnknownParameterError", "check_parameters",
    "load_parameters", "notebook_parameters", "run_grid", "run_in_place", "run_notebook",
]  # fmt: skip


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
    path, folder = (Path(p).expanduser().resolve() for p in (path, output_dir))
    points = grid_points(grid)
    twice = sorted(set(grid) & set(parameters or {}))
    if twice:
        raise ValueError(f"{', '.join(twice)}: in both grid and parameters")
    tasks = []
    for point, name in zip(points, point_names(path.stem, points), strict=True):
        given = check_parameters(path, (parameters or {}) | point)
        tasks.append((path, folder / name, given, force))
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
    shown = {"desc": title, "unit": "run", "total": len(tasks), "disable": title is None}
    if executor is None:
        with progress_bar(**shown) as bar:
            return [_in_turn(task, bar) for task in tasks]
    futures = [executor.submit(_attempt, *task, False) for task in tasks]
    try:
        for _ in progress_bar(as_completed(futures), **shown):
            pass
    finally:  # An interrupt must not leave the queued points to run on.
        for future in futures:
            future.cancel()
    return [_result(future) for future in futures]


def _in_turn(task, bar) -> Run | str:
    """One run, told beside the bar over all; in a terminal it has a bar of its own below."""
    path, output, *_ = task
    bar.set_postfix_str(output.stem.removeprefix(path.stem).strip("_").replace("__", ", "))
    run = _attempt(*task, not (bar.disable or in_notebook()))
    bar.update()
    return run


def _result(future) -> Run | str:
    try:
        return future.result()
    except Exception as error:  # The worker itself was lost, not the notebook's fault.
        return f"{type(error).__name__}: {error}"


def _given(options) -> tuple[dict, dict]:
    """Texts of -p and of --grid by name; a name that is given twice is an error."""
    told, fixed, axes = {}, {}, {}
    for name, text in options.parameter:
        _once(told, name, f"-p {name} {text}")
        fixed[name] = text
    for axis in options.grid:
        name, separator, text = axis.partition("=")
        if not separator:
            raise ValueError(f"--grid {axis}: expected name=value,value,...")
        _once(told, name, f"--grid {axis}")
        axes[name] = text
    return fixed, axes


def _once(told: dict, name: str, shown: str) -> None:
    if name in told:
        raise ValueError(f"{name} is given twice: {told[name]} and {shown}")
    told[name] = shown


def _jobs(options) -> list[tuple]:
    """What the command line asks for, checked: (notebook, parameters, grid), one a notebook."""
    for notebook in options.notebooks:
        if not notebook.is_file():
            raise ValueError(f"no such notebook: {notebook}")
    fixed, axes = _given(options)
    shared = load_parameters(options.parameters, options.notebooks) if options.parameters else {}
    jobs, writers = [], {}
    for notebook in options.notebooks:
        defaults = notebook_parameters(notebook)
        given = {name: value_of(text, defaults.get(name)) for name, text in fixed.items()}
        grid = {name: values_of(text, defaults.get(name)) for name, text in axes.items()}
        kept = {k: v for k, v in shared.get(notebook.stem, {}).items() if k not in grid} | given
        for point in grid_points(grid):
            check_parameters(notebook, kept | point)
        for output in _outputs(notebook, grid, options):
            _claim(writers, output, notebook, options)
        jobs.append((notebook, kept, grid))
    return jobs


def _outputs(notebook: Path, grid: dict, options) -> list[Path]:
    names = point_names(notebook.stem, grid_points(grid)) if grid else [notebook.name]
    # One that runs in place keeps what it had got to here, should it fail.
    folder = results_folder() / "in-place" if options.in_place else options.out
    return [(folder / name).resolve() for name in names]


def _claim(writers: dict, output: Path, notebook: Path, options) -> None:
    """Note who writes a file, unless another notebook does, or it is a notebook to be run."""
    if output in writers:
        raise ValueError(
            f"{writers[output]} and {notebook} would both be written to {output}; "
            "run them by two calls, each with an --out of its own"
        )
    if output in [source.resolve() for source in options.notebooks]:
        raise ValueError(f"--out {options.out}: {output} is the notebook itself; see --in-place")
    writers[output] = notebook


def _run_job(notebook, parameters, grid, options) -> list[Run]:
    if options.in_place:
        return [run_in_place(notebook)]
    if grid:
        return run_grid(notebook, grid, options.out, parameters=parameters, force=options.force)
    return [run_notebook(notebook, options.out / notebook.name, parameters, force=options.force)]


def _path(text: str) -> Path:
    return Path(text).expanduser()


class _Single(argparse.Action):
    """An option whose second value would push the first one out without a word."""

    def __call__(self, parser, namespace, value, option_string=None):
        if (first := getattr(namespace, self.dest)) is not None:
            parser.error(f"{option_string} is given twice: {first} and {value}")
        setattr(namespace, self.dest, value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cpnb sweep", description="Run notebooks.")
    parser.add_argument("notebooks", nargs="+", type=_path, metavar="NOTEBOOK")
    parser.add_argument(
        "--parameters",
        type=_path,
        action=_Single,
        metavar="FILE",
        help="YAML, notebook: parameters; -p and --grid take precedence",
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
    parser.add_argument(
        "--out", type=_path, action=_Single, help="folder of executed notebooks (results/local)"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="repeat finished runs, though nothing that cpnb.runs.keys watches has changed",
    )
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
    if options.in_place and (
        options.parameters or options.parameter or options.grid or options.out
    ):
        parser.error("--in-place runs with the defaults; it takes no parameters, grid or --out")
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
