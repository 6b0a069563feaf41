"""What travels to workers that share no disk: a notebook with its neighbours, and data sets.

The bundle holds the notebook's folder, a folder ``data`` beside that, and the folder of data sets;
a worker unpacks it once, in its own work folder, where relative paths lead to the same files.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from contextlib import suppress
from pathlib import Path

from cpnb.runs.places import data_folder

MOST = 1_000_000_000  # bytes; beyond that a shared folder is the better way
OUTPUTS = (".failed.ipynb", ".partial.ipynb", ".tmp", ".jsonl", ".pyc")
SETS = "downloads"  # where the folder of data sets lies in the bundle


def pack(folder: Path) -> bytes:
    """A zip file of a notebook's folder, with the data beside it.

    Raises
    ------
    ValueError
        If there is more than a bundle holds.
    """
    files = dict(_files(folder, f"notebooks/{folder.name}"))
    sets = data_folder().resolve()
    beside = _files(folder.parent / "data", "notebooks/data")
    files |= {name: file for name, file in beside if not file.is_relative_to(sets)}
    files |= _files(sets, SETS)
    size = sum(file.stat().st_size for file in files.values())
    if size > MOST:
        raise ValueError(
            f"{folder} and its data are {size / 1e9:.1f} GB; up to {MOST / 1e9:.0f} GB are sent to "
            "workers. Put the checkout and CPNB_DATA on a disk that the workers have at the same "
            "paths"
        )
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, file in sorted(files.items()):
            archive.write(file, name)
    return stream.getvalue()


def _files(folder: Path, name: str):
    """(name in the bundle, file) for all files of a folder, without what runs leave behind."""
    for place, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".") and f != "__pycache__"]
        inside = Path(place).relative_to(folder)
        for file in files:
            if not file.startswith(".") and not file.endswith(OUTPUTS):
                yield str(Path(name) / inside / file), Path(place) / file


def name_of(content: bytes) -> str:
    """The folder that a bundle is unpacked into."""
    return f"cpnb-{hashlib.sha256(content).hexdigest()[:16]}"


def unpack(content: bytes, folder: Path) -> None:
    """Unpack a bundle below a folder, unless it is there."""
    target = folder / name_of(content)
    if not target.exists():
        making = target.with_name(f"{target.name}.{os.getpid()}")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(making)
        with suppress(OSError):  # another worker of this folder was faster
            making.rename(target)
