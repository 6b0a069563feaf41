"""Locks between processes: one sweep runs a point, and who measures time has the machine alone.

A lock is the system's own (flock) and ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import getpass
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cpnb.runs.records import own_run

try:
    import fcntl
except ImportError:  # Windows: there one sweep at a time is up to the user.
    fcntl = None

FOLDER = ".locks"  # in a sweep's folder of results


def lock_of(output: Path) -> Path:
    """Where the lock of a point lies, beside its executed notebook."""
    return output.parent / FOLDER / f"{output.stem}.lock"


@contextmanager
def held(path: Path) -> Iterator:
    """Hold a lock, if nobody does: yields a function that notes in it what goes on, or None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        if not _taken(file, path):
            yield None
            return
        try:
            yield lambda told: _note(file, told)
        finally:
            path.unlink(missing_ok=True)


def _taken(file, path: Path) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    try:  # the one who held it may have removed the file since it was opened
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _note(file, told: dict) -> None:
    with suppress(OSError):  # a full disk: it is a note, and the lock holds without
        file.seek(0)
        file.truncate()
        file.write(json.dumps(told).encode())
        file.flush()


def holder(path: Path) -> dict | None:
    """What the holder of a lock has noted, or None if nobody holds it."""
    try:
        with open(path, "rb") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
    except FileNotFoundError:
        return None
    except OSError:
        pass
    try:
        return json.loads(path.read_bytes() or b"{}")
    except (OSError, ValueError):  # it has just ended, or is about to write
        return {}


@contextmanager
def machine(alone: bool) -> Iterator[None]:
    """A place on this machine: shared with other runs, or, where time is measured, alone.

    Who waits to be alone holds the door, so that others do not keep the machine busy for ever.
    Runs inside a run have its place, and share that among themselves.
    """
    if fcntl is None:
        yield
        return
    outer = own_run()
    name = f"cpnb-{getpass.getuser()}{'-' + outer['run'] if outer else ''}"
    folder = Path(tempfile.gettempdir())
    with ExitStack() as room:
        with open(folder / f"{name}.door", "ab") as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            place = room.enter_context(open(folder / f"{name}.room", "ab"))
            fcntl.flock(place, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
