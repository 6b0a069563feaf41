"""The words of the sweep's command line, checked before anything runs."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from cpnb.runs.grids import grid_points, read_points, value_of, values_of
from cpnb.runs.parameters import load_parameters, notebook_parameters
from cpnb.runs.points import Limits, check_folder, check_outputs, in_place, points_of
from cpnb.runs.records import results_folder

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
BYTES = {"M": 10**6, "G": 10**9}
NO_GRID = "--in-place runs with the defaults; it takes no parameters, grid or --out"


def parse(words: list[str]) -> argparse.Namespace:
    """Options, with the `points` that they ask for and the `limits` for them.

    Raises
    ------
    SystemExit
        If something is wrong with them: it has been said.
    """
    parser = _parser()
    options = parser.parse_args(_joined(words))
    options.limits = Limits(options.timeout, options.memory, options.force)
    if options.status or options.table:
        if options.notebooks:
            parser.error("--status and --table take a folder alone, and no notebooks")
        return options
    try:
        options.points = _points(options)
    except (ValueError, TypeError, OSError) as error:
        parser.error(str(error))
    return options


def _joined(words: list[str]) -> list[str]:
    """`-p NAME VALUE` as one word, because a value such as -1e-4 would be taken for an option."""
    joined, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if word == "-p" and len(rest) >= 2:
            word = f"-p{rest.pop(0)}={rest.pop(0)}"
        joined.append(word)
    return joined


def _points(options) -> list:
    if not options.notebooks:
        raise ValueError("which notebook? Expected is the path of one or more")
    for notebook in options.notebooks:
        if not notebook.is_file():
            raise ValueError(f"no such notebook: {notebook}")
    notebooks = [notebook.resolve() for notebook in options.notebooks]
    if options.in_place:
        if options.parameters or options.parameter or options.grid or options.out or options.file:
            raise ValueError(NO_GRID)
        points = [in_place(notebook) for notebook in notebooks]
    else:
        folder = (options.out or results_folder()).resolve()
        points = _points_of_all(notebooks, folder, options)
        if not options.dry_run:
            check_folder(folder)
    check_outputs(points)
    return points


def _points_of_all(notebooks: list[Path], folder: Path, options) -> list:
    fixed, axes = _given(options)
    rows = read_points(options.file) if options.file else [{}]
    _check_names(fixed, axes, rows, options.file)
    shared = load_parameters(options.parameters, options.notebooks) if options.parameters else {}
    points = []
    for notebook in notebooks:
        defaults = notebook_parameters(notebook)
        given = _values(fixed, defaults)
        grid = grid_points({name: values_of(t, defaults.get(name)) for name, t in axes.items()})
        kept = shared.get(notebook.stem, {})
        lines = [_values(row, defaults) for row in rows]
        points += points_of(notebook, [kept | given | a | b for a in lines for b in grid], folder)
    return points


def _values(texts: dict, defaults: dict) -> dict:
    """Texts of the command line or of CSV as values; what YAML has read stays as it is."""
    return {
        name: value_of(text, defaults.get(name)) if isinstance(text, str) else text
        for name, text in texts.items()
    }


def _check_names(fixed: dict, axes: dict, rows: list[dict], file: Path | None) -> None:
    for name in sorted({name for row in rows for name in row}):
        for option, given in (("-p", fixed), ("--grid", axes)):
            if name in given:
                raise ValueError(f"{name} is given twice: in {file} and by {option}")


def _given(options) -> tuple[dict, dict]:
    """Texts of -p and of --grid by name; a name that is given twice is an error."""
    told, fixed, axes = {}, {}, {}
    for word in options.parameter:
        name, separator, text = word.partition("=")
        if not separator:
            raise ValueError(f"-p {word}: expected -p NAME VALUE")
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


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _seconds(text: str) -> float:
    """A time such as 90, 90s, 20m, 1h30m."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    seconds = sum(float(number) * UNITS[unit or "s"] for number, unit in parts)
    if "".join(map("".join, parts)) != text or seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; accepted are 90s, 20m, 1h30m")
    return seconds


def _bytes(text: str) -> int:
    """A size such as 500M or 2G."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([MG])B?", text)
    if not found or float(found[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; accepted are 500M, 2G")
    return int(float(found[1]) * BYTES[found[2]])


def _from(least: int):
    def number(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}; accepted is a number from {least}")
        return int(text)

    return number


class _Single(argparse.Action):
    """An option whose second value would push the first one out without a word."""

    def __call__(self, parser, namespace, value, option_string=None):
        if (first := getattr(namespace, self.dest)) not in (None, self.default):
            parser.error(f"{option_string} is given twice: {first} and {value}")
        setattr(namespace, self.dest, value)


# Options that take one value: name, how it is read, default, what it is, what it does.
SINGLE = (
    ("--parameters", _path, None, "FILE", "YAML, notebook: parameters; other options count more"),
    ("--points", _path, None, "FILE", "CSV or YAML list, one run a line"),
    ("--out", _path, None, "DIR", "folder of notebooks and records (results/local)"),
    ("--jobs", _from(1), 1, "N", "points that run side by side (1)"),
    ("--timeout", _seconds, None, "TIME", "limit of each run, such as 90s, 20m, 1h30m"),
    ("--memory", _bytes, None, "SIZE", "limit of each run's kernel, such as 500M, 2G"),
    ("--retry", _from(0), 1, "N", "starts again of a point that lost its process or worker (1)"),
    ("--scheduler", str, None, "ADDRESS", "run on a Dask cluster, such as tcp://127.0.0.1:8786"),
    ("--status", _path, None, "DIR", "say how a sweep stands, also while it runs, and end"),
    ("--table", _path, None, "DIR", "print all points of a folder with their figures, and end"),
)
SWITCHES = (
    ("--dry-run", "say which points there are and how long they will take; run none"),
    ("--force", "repeat finished runs, though nothing that cpnb.runs.keys watches has changed"),
    ("--in-place", "execute with defaults and keep the outputs in the notebook itself"),
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cpnb sweep", description="Run notebooks.", allow_abbrev=False
    )
    parser.add_argument("notebooks", nargs="*", type=_path, metavar="NOTEBOOK")
    parser.add_argument(
        "-p", dest="parameter", action="append", default=[], metavar="NAME VALUE",
        help="a parameter of every notebook given",
    )  # fmt: skip
    parser.add_argument(
        "--grid", nargs="+", action="extend", default=[], metavar="NAME=V1,V2",
        help="run every combination of these values; 0-4 stands for 0,1,2,3,4",
    )  # fmt: skip
    for name, kind, default, metavar, text in SINGLE:
        dest = {"--points": "file"}.get(name, name[2:])
        parser.add_argument(
            name, type=kind, action=_Single, default=default, dest=dest, metavar=metavar, help=text
        )
    for name, text in SWITCHES:
        parser.add_argument(name, action="store_true", help=text)
    return parser
