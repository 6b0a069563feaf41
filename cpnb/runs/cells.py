"""Cells of a notebook, read without nbformat, which takes a second or two to load."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cell:
    """A cell of a notebook: its kind, source and tags."""

    cell_type: str
    source: str
    tags: tuple


def read_cells(path: Path) -> list[Cell]:
    """Cells of a notebook's file.

    Raises
    ------
    ValueError
        If the file is no notebook; the message names it.
    """
    return [
        Cell(cell["cell_type"], "".join(cell["source"]), _tags(cell))
        for cell in _content(path)["cells"]
    ]


def measures_time(path: Path) -> bool:
    """Whether a notebook is tagged ``timing`` in its metadata: then it runs alone."""
    return "timing" in _tags(_content(path))


def _tags(part: dict) -> tuple:
    return tuple(part.get("metadata", {}).get("tags", ()))


def _content(path: Path) -> dict:
    """JSON of a notebook in nbformat's version 4; nbformat itself, slow to load, reads earlier."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["nbformat"] < 4:
            import nbformat

            content = nbformat.read(path, as_version=4)
        if content["nbformat"] > 4:
            raise ValueError(f"nbformat {content['nbformat']} is later than 4")
        if not all(isinstance(c["source"], (str, list)) for c in content["cells"]):
            raise ValueError("a cell without source")
        return content
    except OSError:
        raise
    except Exception as error:  # whatever odd JSON makes one stumble over
        told = (str(error).splitlines() or [""])[0]
        reason = f"{type(error).__name__}: {told}"
        raise ValueError(f"{path} is no notebook that can be read: {reason}") from error
