"""What was measured before on this machine, so that it need not be measured again.

Kept in memory and in a file of the user's cache folder (see `native.cache_folder`), unless the
environment has CPNB_REMEMBER=0.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from functools import cache
from pathlib import Path

import torch

from cpnb.inference.fused import native

_memory: dict[str, dict] = {}


def key_of(*parts) -> str:
    """Of what is measured: its parts as text, this machine, its threads and all versions."""
    where = platform.node(), os.cpu_count(), torch.get_num_threads(), torch.__version__
    told = "\0".join(
        map(str, (*parts, *where, _sources(), torch.backends.cpu.get_cpu_capability()))
    )
    return hashlib.sha256(told.encode()).hexdigest()[:24]


def recalled(key: str) -> dict | None:
    """What was remembered, or None."""
    if not _wanted():
        return None
    if key not in _memory:
        _memory.update(_read())
    return _memory.get(key)


def remember(key: str, found: dict) -> None:
    """Keep it, in the file too where that can be written."""
    if not _wanted():
        return
    _memory[key] = found
    with contextlib.suppress(OSError, native.KernelUnavailable):
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        known = _read() | {key: found}
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(known, file)
        os.replace(file.name, path)  # whole or not at all, also with several processes


def _wanted() -> bool:
    return os.environ.get("CPNB_REMEMBER", "1") != "0"


def _path() -> Path:
    return native.cache_folder() / "measurements.json"


def _read() -> dict[str, dict]:
    try:
        known = json.loads(_path().read_text())
    except (OSError, ValueError, native.KernelUnavailable):
        return {}
    return known if isinstance(known, dict) else {}


@cache
def _sources() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in native.SOURCES)).hexdigest()
