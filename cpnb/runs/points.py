"""Points of a sweep, planned and checked before any of them runs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cpnb.runs import keys
from cpnb.runs.cells import measures_time
from cpnb.runs.grids import point_name
from cpnb.runs.parameters import check_parameters, notebook_parameters
from cpnb.runs.records import results_folder
from cpnb.runs.states import about, is_finished


@dataclass(frozen=True)
class Limits:
    """What holds for all points: seconds and bytes that each may take, and runs repeated by force.

    Attributes
    ----------
    timeout : float or None
        Seconds.
    memory : int or None
        Bytes of the kernel and what it starts.
    force : bool
        Run points that have finished before, too.
    """

    timeout: float | None = None
    memory: int | None = None
    force: bool = False


@dataclass(frozen=True, eq=False)
class Point:
    """A notebook, parameters for it, and where the executed one goes.

    `shared` is the hash of all that its runs depend on but for parameters (`keys.source`).
    """

    path: Path
    output: Path
    parameters: dict
    shared: str = ""
    alone: bool = False
    in_place: bool = False

    @property
    def label(self) -> str:
        """What tells the point from others of its notebook."""
        rest = self.output.stem.removeprefix(self.path.stem).strip("_")
        return rest.replace("__", ", ") or self.path.stem

    def is_finished(self) -> bool:
        """Whether nothing that it depends on has changed since it ran."""
        if self.in_place:
            return False
        return is_finished(self.output, keys.inputs(self.path, self.parameters, self.shared))

    def row(self, **columns) -> dict:
        """A row of `states`."""
        return {"output": self.output.name, "notebook": self.path.name} | columns

    def planned(self) -> dict:
        """The row of `states` that names it for the first time, with all its parameters."""
        every = notebook_parameters(self.path) | self.parameters
        return self.row(path=str(self.path), parameters=every, state="planned")

    def task(self, limits: Limits) -> dict:
        """What its process is told."""
        return {
            "path": str(self.path),
            "home": str(self.path),
            "output": str(self.output),
            "parameters": self.parameters,
            "shared": self.shared,
            "alone": self.alone,
            "in_place": self.in_place,
            "records": str(self.output.parent),
            "timeout": limits.timeout,
            "memory": limits.memory,
            "force": limits.force,
        }


def points_of(path: Path, given: Iterable[dict], folder: Path) -> list[Point]:
    """The points of one notebook, checked: names, types, and that none stands twice.

    Raises
    ------
    UnknownParameterError, TypeError, ValueError
        As `check_parameters`, or if two points are the same.
    """
    defaults, shared, alone = notebook_parameters(path), keys.source(path), measures_time(path)
    points = {}
    for parameters in given:
        checked = check_parameters(path, parameters)
        output = folder / point_name(path.stem, checked, defaults)
        if output in points:
            raise ValueError(f"{path.name}: two points are the same, {checked}")
        points[output] = Point(path, output, checked, shared, alone)
    return list(points.values())


def in_place(path: Path) -> Point:
    """The point of a notebook that is executed with its defaults and replaced."""
    check_parameters(path, {})
    output = results_folder() / "in-place" / path.name
    return Point(path, output, {}, alone=measures_time(path), in_place=True)


def check_outputs(points: list[Point]) -> None:
    """See to it that nothing is overwritten but earlier runs of the same points.

    Raises
    ------
    ValueError
        If two points have one output, or an output is a notebook to be run, or of another run.
    """
    writers, sources = {}, {point.path for point in points}
    for point in points:
        other = writers.setdefault(point.output, point)
        if other is not point:
            raise ValueError(
                f"{other.path} and {point.path} would both be written to {point.output}; "
                "run them by two calls, each with an --out of its own"
            )
        if point.output in sources:
            raise ValueError(
                f"--out {point.output.parent}: {point.output} is the notebook itself; "
                "see --in-place"
            )
        if not point.in_place:
            _check_output(point)


def _check_output(point: Point) -> None:
    told, output = about(point.output), point.output
    if told is None:
        if output.is_file() and _is_a_notebook(output):
            raise ValueError(f"--out {output.parent}: {output} is no run of a sweep, and stays")
        return
    other = Path(told.get("path", point.path))
    if other.exists() and other != point.path and told.get("notebook") == point.path.name:
        raise ValueError(
            f"--out {output.parent} holds another sweep: {output.name} is a run of {other}, "
            f"not of {point.path}; give this one an --out of its own"
        )


def _is_a_notebook(file: Path) -> bool:
    """Whether it is whole: what a crash has left may be replaced."""
    try:
        measures_time(file)
    except (OSError, ValueError):
        return False
    return True


def check_folder(folder: Path) -> None:
    """See to it that files can be made in a folder.

    Raises
    ------
    ValueError
        If it is a file, or cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; accepted is a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ValueError(f"--out {folder}: nothing can be written there: {reason}") from None
