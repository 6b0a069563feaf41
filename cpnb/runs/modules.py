"""Which files of cpnb a piece of code uses, directly or through one another.

The code of a notebook is searched for names, because magics keep it from being parsed: a public
name counts wherever it stands beside the word cpnb. Modules are parsed. What is imported under a
name that is put together at run time is not found.
"""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

from cpnb.runs.places import PACKAGE

BESIDE = (".cpp", ".h")  # sources of native kernels, compiled by a module of their folder


def used_files(code: str) -> list[Path]:
    """Files of cpnb that decide what the code computes, in order of their names."""
    found = _named(code)
    for name in found:  # which grows
        found += [n for n in _imports(name) if n not in found]
    modules = {_file(name) for name in found}
    folders = {file.parent for file in modules}
    native = {file for folder in folders for file in folder.glob("*") if file.suffix in BESIDE}
    return sorted(modules | native)


def _named(code: str) -> list[str]:
    """Modules that the text of a notebook's cells names."""
    words = set(re.findall(r"\w+", code))
    if "cpnb" not in words:
        return []
    dotted = re.findall(r"\bcpnb(?:\.\w+)*", code)
    public = [module for name, module in _public(PACKAGE).items() if name in words]
    rooms = [f"cpnb.{word}" for word in sorted(words)]
    inside = [f"{name}.{word}" for name in set(dotted) for word in sorted(words)]
    return _existing(["cpnb", *dotted, *public, *rooms, *inside])


def _existing(names) -> list[str]:
    """Of dotted names those of modules, with the packages that they stand in, each once."""
    parts = [name.split(".") for name in names]
    every = [".".join(part[:n]) for part in parts for n in range(1, len(part) + 1)]
    return [name for name in dict.fromkeys(every) if _file(name) is not None]


def _file(name: str) -> Path | None:
    path = PACKAGE.joinpath(*name.split(".")[1:])
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file
    return None


def _imports(name: str) -> list[str]:
    file = _file(name)
    about = file.stat()
    return _existing(_imported(file, about.st_size, about.st_mtime_ns))


@lru_cache(maxsize=1000)
def _imported(file: Path, size: int, changed: int) -> list[str]:
    """Full names of what a module of cpnb imports, inside functions too."""
    names = []
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except SyntaxError:
        return names  # its users will say so
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.split(".")[0] == "cpnb"]


@lru_cache(maxsize=2)
def _public(package: Path) -> dict[str, str]:
    """The public names of cpnb and the module that each is from."""
    file = package / "__init__.pyi"
    nodes = ast.parse(file.read_bytes()).body if file.is_file() else []
    return {
        alias.name: f"cpnb.{node.module}"
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
