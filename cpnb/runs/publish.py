"""The way of records into the repository: rows of committed code are copied, others refused.

.venv/bin/python -m cpnb publish                  # copies this machine's records
.venv/bin/python -m cpnb publish FILE --force     # those of another file, of uncommitted code too
.venv/bin/python -m cpnb publish --list           # only says what is recorded
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from cpnb.runs.places import checkout
from cpnb.runs.records import (
    append,
    encode,
    published_path,
    read,
    recorded,
    results_folder,
    results_path,
)


class Published(NamedTuple):
    """What `publish` did with each row; a refused one comes as (row, reason)."""

    added: list
    present: list
    refused: list


def _objection(row: dict) -> str | None:
    if not row.get("commit"):
        return "the commit is unknown"
    if row.get("dirty") is not False:
        return f"the code was not as committed in {row['commit'][:10]}"
    return None


def publish(sources=None, *, force: bool = False) -> Published:
    """Copy rows into the committed results/records.jsonl, unless they are there already.

    Parameters
    ----------
    sources : path-like or list of them, optional
        Files of records; by default all in this machine's folder of results.
    force : bool
        Take rows whose code was not exactly that of a commit, or is unknown, too.

    Raises
    ------
    FileNotFoundError
        If there is no such source.
    """
    sources = _of_this_machine() if sources is None else sources
    sources = sources if isinstance(sources, list) else [sources]
    rows = [row for file in sources for row in read(file)]
    target = published_path()
    present = read(target) if target.exists() else []
    known, result = {encode(row) for row in present}, Published([], [], [])
    for row in rows:
        objection = None if force else _objection(row)
        if encode(row) in known:
            result.present.append(row)
        elif objection:
            result.refused.append((row, objection))
        else:
            append(row, target)
            known.add(encode(row))
            result.added.append(row)
    return result


def _of_this_machine() -> list[Path]:
    """Files of records: `results_path()`, and those that sweeps have in folders of their own."""
    return sorted({results_path(), *results_folder().rglob("records.jsonl")})


def _print_counts() -> None:
    for path in (published_path(), *_of_this_machine()):
        counts = Counter(str(row.get("claim")) for row in recorded(path))
        print(f"{path}: {counts.total()} rows")
        for claim, count in sorted(counts.items()):
            print(f"  {count:4d}  {claim}")


def main(arguments=None) -> int:
    """Command line of this module; see the module's description."""
    parser = argparse.ArgumentParser(
        prog="python -m cpnb publish", description="Copy records into results/records.jsonl."
    )
    parser.add_argument("path", nargs="?", help="file of records (default: this machine's)")
    parser.add_argument("--force", action="store_true", help="take rows of uncommitted code too")
    parser.add_argument("--list", action="store_true", help="only say what is recorded")
    options = parser.parse_args(arguments)
    if options.list:
        _print_counts()
        return 0
    if checkout() is None:
        parser.error("publishing changes the records of a checkout, and this cpnb is installed")
    sources = [Path(options.path).expanduser()] if options.path else _of_this_machine()
    if not (found := [source for source in sources if source.is_file()]):
        parser.error(f"no such file of records: {sources[0]}")
    result = publish(found, force=options.force)
    print(f"added {len(result.added)}, already there {len(result.present)}")
    for row, reason in result.refused:
        print(f"refused: {row.get('claim')} of {row.get('utc')}: {reason}", file=sys.stderr)
    return 1 if result.refused else 0
