"""Where a run happens: the machine, its packages, and the commit of the code that ran."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

from cpnb.runs.places import repository

CODE_FOLDERS = ("cpnb", "benchmarks", "data", "notebooks")
PACKAGES = ("torch", "torchvision", "numpy", "tensorly")


def _git(root, *arguments) -> str | None:
    """Output of a git command in `root`, or None without git, a repository or such an object."""
    try:
        run = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.decode("utf-8", "replace")


def _notebook_code(text: str) -> list:
    return [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]


def _only_outputs_differ(root: Path, name: str) -> bool:
    """Whether a notebook has the committed cells, and only outputs or metadata are new."""
    committed = _git(root, "show", f"HEAD:{name}")
    try:
        current = (root / name).read_text(encoding="utf-8")
        return committed is not None and _notebook_code(committed) == _notebook_code(current)
    except (OSError, ValueError, KeyError, TypeError):
        return False


@functools.cache
def git_state(root: Path) -> tuple[str | None, bool | None]:
    """Commit of the code and whether the code differs from it.

    Looked up once a process, because that is the code the process has loaded. The second value is
    True if anything under `CODE_FOLDERS` is changed, deleted or new and not git-ignored.
    Other folders (results, tests) do not count, and neither do outputs and metadata of
    notebooks: running a notebook leaves the code clean.

    Returns
    -------
    (commit, dirty) : (str, bool), or (None, None) outside a git checkout of the project
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top.strip()).resolve() != Path(root).resolve():
        return None, None  # An enclosing repository says nothing about this code.
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    status = _git(root, "status", "--porcelain", "-z", "--no-renames", "-uall", "--", *CODE_FOLDERS)
    if commit is None or status is None:
        return None, None
    changes = [(entry[:2], entry[3:]) for entry in status.split("\0") if entry]
    dirty = any(
        not (name.endswith(".ipynb") and "M" in state and _only_outputs_differ(root, name))
        for state, name in changes
    )
    return commit.strip(), dirty


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _device(torch) -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def team_size() -> int:
    """How many processes were launched to train together (WORLD_SIZE); 1 for one alone."""
    return int(os.environ.get("WORLD_SIZE", 1))


def leads() -> bool:
    """Whether this process writes for those launched with it: the first of them, or one alone."""
    return team_size() == 1 or int(os.environ.get("RANK", 0)) == 0


def versions() -> dict:
    """Versions of Python and of the packages that results hang on; none of them is loaded."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def environment() -> dict:
    """Where a run happens: hardware, threads, versions, commit and time (UTC, ISO 8601).

    `dirty` is True when code under `CODE_FOLDERS` differs from `commit`; see `git_state`.
    """
    import torch  # here: the command line does without it, and it takes seconds

    commit, dirty = git_state(repository())
    return {
        "utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "dirty": dirty,
        "device": _device(torch),
        "cpu": _cpu_name(),
        "simd": torch.backends.cpu.get_cpu_capability(),  # machines of one name differ in it
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
