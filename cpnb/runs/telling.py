"""What the command line says: each result, what a sweep would do, and how a folder stands."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

from cpnb.runs.outcomes import Run
from cpnb.runs.points import Point
from cpnb.runs.states import FILE, expected_seconds, states

ORDER = ("finished", "running", "failed", "stopped", "planned")


def duration(seconds: float) -> str:
    """Seconds as one says them: 45 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours = f"{minutes // 60} h " if minutes >= 100 else ""
    return f"{hours}{minutes % 60 if hours else minutes} min"


def say(point: Point, result: Run | str) -> None:
    """One line of a result; failures go to stderr."""
    if isinstance(result, str):
        name = point.output.name
        shown = "" if point.in_place or name == point.path.name else f"{name}: "
        print(f"{'failed':>16}  {shown}{result}", file=sys.stderr)
    else:
        told = "finished before" if result.skipped else f"{result.seconds:.0f} s"
        print(f"{told:>16}  {result.output}", flush=True)


def dry_run(points: list[Point], force: bool, jobs: int) -> int:
    """Print the points, which have finished, and the time to expect of the others."""
    known = {folder: states(folder) for folder in {point.output.parent for point in points}}
    left, total, unknown = 0, 0.0, 0
    for point in points:
        if not force and point.is_finished():
            print(f"{'finished before':>16}  {point.output}")
            continue
        seconds = expected_seconds(known[point.output.parent], point.path.name, point.output.name)
        left, total, unknown = left + 1, total + (seconds or 0.0), unknown + (seconds is None)
        told = "to be run" if seconds is None else f"about {duration(seconds)}"
        print(f"{told:>16}  {point.output}")
    print(f"{left} of {len(points)} points to be run{_expected(left, total, unknown, jobs)}")
    return 0


def _expected(left: int, total: float, unknown: int, jobs: int) -> str:
    if not left:
        return ""
    if unknown == left:
        return "; how long they take is not known yet"
    side = f" with {jobs} side by side" if jobs > 1 else ""
    rest = f", and {unknown} of unknown length" if unknown else ""
    return f"; about {duration(total / min(jobs, left))}{side}{rest}, by earlier runs"


def status(folder: Path) -> int:
    """Print how the points of a folder stand, each that runs with its cell, each that failed."""
    known = states(folder)
    if not known:
        print(f"{folder} holds no sweep: there is no {FILE} in it", file=sys.stderr)
        return 2
    count = Counter(row.get("state") for row in known.values())
    told = [f"{count[name]} {name}" for name in ORDER if count[name]]
    print(f"{folder}: {len(known)} points, {', '.join(told)}")
    for name, row in sorted(known.items()):
        if row.get("state") == "running":
            print(f"  running  {name}{_where(row)}")
        elif row.get("state") == "failed":
            print(f"  failed   {name}: {(row.get('error') or '').splitlines()[0]}")
    _print_left(known, max(1, count["running"]))
    return 0


def _where(row: dict) -> str:
    cell = f", cell {row['cell']}/{row['of']} ({row['source']})" if "cell" in row else ""
    since = f" for {duration(time.time() - row['since'])}" if "since" in row else ""
    return f"{since}{cell}, process {row.get('pid')} on {row.get('host')}"


def _print_left(known: dict[str, dict], jobs: int) -> None:
    left = [row for row in known.values() if row.get("state") not in ("finished", "failed")]
    expected = [expected_seconds(known, row.get("notebook"), "") for row in left]
    if left and all(expected):
        print(f"  about {duration(sum(expected) / jobs)} left, by earlier runs")


def table(folder: Path) -> int:
    """Print the points of a folder as a table: parameters, figures, state and seconds."""
    from cpnb.runs.records import load  # here: pandas takes a second or two

    try:
        found = load(folder)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    print(found.to_string(index=False, max_rows=None))
    return 0
