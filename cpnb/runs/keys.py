"""What a run depends on, as a key: by it a finished run is known again, and not repeated.

In the key are

- the cells of the notebook, of notebooks that its code names, and the modules beside it that its
  code names, directly or through one another;
- the parameters, and the files and folders whose paths they are;
- the folder of data sets (CPNB_DATA, else ``data/downloads``);
- of cpnb the modules that all this code uses, directly or through one another, with the sources of
  their native kernels, and the data that ships with it;
- the versions of Python, PyTorch, torchvision, NumPy and TensorLy.

Of data files name, size and time of change count, not the content; of a folder, its first 100,000
entries. Not in the key are the machine, its threads and other environment variables, files that
the code opens by names of its own, other packages, and the records that a page shows: a run whose
result hangs on those is repeated by ``force=True`` (``--force``).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from cpnb.runs.cells import read_cells
from cpnb.runs.machine import versions
from cpnb.runs.modules import used_files
from cpnb.runs.parameters import notebook_parameters
from cpnb.runs.places import data_folder, shipped

ENTRIES = 100_000  # of a folder that count: a listing of so many takes under a second
NOT_DATA = (".ipynb", ".jsonl")  # what runs leave behind, also in a folder of data
NAMED_NOTEBOOK = re.compile(r"""["']([^"'\n]+\.ipynb)["']""")


@dataclass(frozen=True)
class Inputs:
    """What a run depends on, as it was at one moment.

    Attributes
    ----------
    source : str
        Hash of everything but what the parameters name.
    named : dict of str to str
        The state of the file or folder at each text among the parameters; "" where none is.
    folder : Path
        The notebook's, which those paths are relative to.
    """

    source: str
    named: dict[str, str]
    folder: Path

    def written(self) -> list[str]:
        """Paths among the parameters at which something has changed since: the run's results."""
        return [text for text, state in self.named.items() if _state(self.folder, text) != state]

    def key(self, written=()) -> str:
        """Hash of all that decides what a run gives, but for what it has written itself."""
        named = {text: state for text, state in self.named.items() if text not in written}
        parts = json.dumps([self.source, named], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()


def inputs(path: Path, parameters: dict, shared: str | None = None) -> Inputs:
    """What a run of the notebook with these parameters depends on.

    `shared` is what `source` gives: that of one moment will do for all points of a sweep.
    """
    shared = source(path) if shared is None else shared
    parts = json.dumps([shared, parameters], sort_keys=True)
    texts = sorted(set(_texts(notebook_parameters(path) | parameters)))
    named = {text: _state(path.parent, text) for text in texts}
    return Inputs(hashlib.sha256(parts.encode()).hexdigest(), named, path.parent)


def source(path: Path) -> str:
    """Hash of all that runs of a notebook depend on, whatever its parameters."""
    digest, code = hashlib.sha256(), ""
    for file in _sources(path):
        for kind, text in _cells(file):
            digest.update(f"{file.name}\0{kind}\0{text}\0".encode())
            code += f"{text}\n" if kind == "code" else ""
    for file in _code_and_data(code):
        digest.update(file.name.encode() + b"\0" + _content(file))
    digest.update(json.dumps(versions(), sort_keys=True).encode())
    digest.update(_listing(data_folder()).encode())
    return digest.hexdigest()


def _sources(path: Path) -> list[Path]:
    """The notebook, and the notebooks and modules that its code names, and theirs, and so on."""
    found = [path]
    for file in found:  # which grows
        code = "\n".join(source for kind, source in _cells(file) if kind == "code")
        found += [n for n in dict.fromkeys(_named_in(code, file.parent)) if n not in found]
    return found


def _cells(file: Path) -> list[tuple[str, str]]:
    with suppress(ValueError):  # a notebook that is broken counts as it stands
        if file.suffix == ".ipynb":
            return [(cell.cell_type, cell.source) for cell in read_cells(file)]
    return [("code", file.read_text(encoding="utf-8", errors="replace"))]


def _named_in(code: str, folder: Path) -> list[Path]:
    """Notebooks at paths in the code; modules and packages in the folder whose names it has."""
    notebooks = [(folder / name).resolve() for name in NAMED_NOTEBOOK.findall(code)]
    words = set(re.findall(r"\w+", code))
    imported = set(re.findall(r"\w+", "\n".join(re.findall(r"^.*\bimport\b.*$", code, re.M))))
    modules = [file for file in sorted(folder.glob("*.py")) if file.stem in words]
    packages = [entry for entry in sorted(folder.iterdir()) if entry.name in imported]
    inside = [file for package in packages for file in sorted(package.rglob("*.py"))]
    return [file for file in notebooks if file.is_file()] + modules + inside


def _code_and_data(code: str) -> list[Path]:
    """Files of cpnb that decide what it computes for this code."""
    data = shipped("data")
    return [*used_files(code), *sorted(data.glob("*.safetensors")), *sorted(data.glob("*.npz"))]


def _content(file: Path) -> bytes:
    about = file.stat()
    return _content_at(file, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=1000)
def _content_at(file: Path, size: int, changed: int) -> bytes:
    """Hash of a file's content, taken once a process: a sweep asks for it at every point."""
    return hashlib.sha256(file.read_bytes()).digest()


def _texts(value) -> Iterator[str]:
    """All texts in a parameter, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _state(folder: Path, text: str) -> str:
    """What is at a path, seen from `folder`: of a file size and time of change, "" for nothing."""
    try:
        path = folder / Path(text).expanduser()
        if text and path.is_dir():
            return _listing(path)
        about = path.stat()
        return f"{about.st_size} {about.st_mtime_ns}" if text else ""
    except (OSError, ValueError, RuntimeError):  # absent, too long, no such user, …
        return ""


def _listing(folder: Path) -> str:
    """Hash of where a folder is and of names, sizes and times of change in it; nothing is read."""
    folder = folder.resolve()
    digest = hashlib.sha256(str(folder).encode(errors="surrogateescape"))
    for line in islice(_entries(folder), ENTRIES):
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _entries(folder) -> Iterator[str]:
    folders = [folder]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as found:  # absent, or not ours to read
            for entry in sorted(found, key=lambda entry: entry.name):
                if entry.name.startswith(".") or entry.name.endswith(NOT_DATA):
                    continue
                if entry.is_dir():
                    folders.append(entry.path)
                    yield f"{entry.path}\0"
                elif entry.is_file():
                    about = entry.stat()
                    yield f"{entry.path}\0{about.st_size}\0{about.st_mtime_ns}\0"
