"""Watches over the processes of a stranger's notebook: how many, how large, how much on disk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
from pathlib import Path

import psutil
from jupyter_client.kernelspec import KernelSpec

from cpnb.runs.kernels import EndsWhenAsked
from cpnb.runs.places import PACKAGE, checkout

MOST_PROCESSES = 40
MOST_ON_DISK = 512 << 20  # bytes
EVERY = 0.1  # seconds
SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/proc", "/sys", "/dev")


def readable() -> list[str]:
    """What a kernel needs to read: the system, Python with its packages, and cpnb's own files."""
    root = checkout()
    folders = [*SYSTEM, sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix)]
    folders += [path for path in sys.path if path and Path(path) != root and os.path.exists(path)]
    own = [root / "data", root / "results" / "records.jsonl"] if root else []
    return [*folders, str(PACKAGE), *(str(path) for path in own if path.exists())]


class JailedKernel(EndsWhenAsked):
    """A kernel of the running interpreter, started by `cpnb.course.jail`."""

    def __init__(self, folder: Path, writable, memory: int, seconds: int, **options):
        self._jail = {
            "readable": readable(),
            "writable": [str(folder), *writable, "/dev/null"],
            "listed": [str(checkout())] if checkout() else [],
            "memory": memory,
            "seconds": seconds,
            "environment": _environment(folder),
        }
        # Sockets of files, not of a network: the kernel has one of its own.
        options |= {"transport": "ipc", "connection_file": str(folder / f"k{os.urandom(4).hex()}")}
        super().__init__(**options)

    @property
    def kernel_spec(self):
        start = [sys.executable, "-m", "cpnb.course.jail", json.dumps(self._jail)]
        return KernelSpec(argv=[*start, "-f", "{connection_file}"], language="python")


def _environment(folder: Path) -> dict:
    """Of the kernel: nothing of the instructor's, one thread, no GPU."""
    home = {name: str(folder) for name in ("HOME", "TMPDIR", "IPYTHONDIR", "MPLCONFIGDIR")}
    places = {"CPNB_RESULTS": str(folder / "results"), "CPNB_CACHE": str(folder / "cache")}
    ours = {"NBGRADER_EXECUTION": os.environ.get("NBGRADER_EXECUTION", "autograde")}
    plain = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg"}
    return home | places | plain | ours | {"PYTHONDONTWRITEBYTECODE": "1"}


def descendants() -> list[psutil.Process]:
    """All processes below this one that live, orphans too where `jail.adopt_orphans` works."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if _alive(process)]


def _alive(process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def end_all(but: int | None = None) -> None:
    """Kill every descendant but one, until none is left: first all stop, lest they fork."""
    for _ in range(100):
        found = [process for process in descendants() if process.pid != but]
        if not found:
            return
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=0.2)


class Watch(threading.Thread):
    """Kills all descendants when they become too many or too large; ``why`` tells the reason."""

    def __init__(self, folders: set[Path], memory: int):
        super().__init__(daemon=True)
        self.folders, self.memory = folders, memory
        self.why = ""
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(EVERY):
            if reason := self._excess():
                self.why = reason
                end_all()

    def stop(self) -> None:
        """End the watch."""
        self._over.set()
        self.join()

    def _excess(self) -> str:
        processes = descendants()
        if len(processes) > MOST_PROCESSES:
            return f"more than {MOST_PROCESSES} processes"
        if sum(map(_size, processes)) > self.memory:
            return f"more than {self.memory >> 20} MiB of memory"
        if sum(map(_on_disk, self.folders)) > MOST_ON_DISK:
            return f"more than {MOST_ON_DISK >> 20} MiB on disk"
        return ""


def _size(process) -> int:
    with contextlib.suppress(psutil.Error):
        return process.memory_info().rss
    return 0


def empty(folder: Path) -> None:
    """Remove all that is in a folder, or make it."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _on_disk(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total
