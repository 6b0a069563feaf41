"""Parameters of a notebook: read from its cell tagged `parameters`, checked before a kernel starts.

Papermill sets parameters by adding a cell after that one, and only warns about unknown names. Here
an unknown name or a value of another type is an error that says what the notebook accepts. A
running notebook finds its own with `own_parameters`.
"""

from __future__ import annotations

import ast
import copy
import difflib
from functools import lru_cache
from pathlib import Path

from cpnb.runs.cells import read_cells
from cpnb.runs.jsonl import plain
from cpnb.runs.yaml12 import read_yaml


class UnknownParameterError(ValueError):
    """A parameter that the notebook does not have."""


def _parameter_statements(path: Path) -> list:
    cells = [c for c in read_cells(path) if "parameters" in c.tags]
    if len(cells) != 1 or cells[0].cell_type != "code":
        raise ValueError(f"{path}: expected one code cell tagged 'parameters', found {len(cells)}")
    try:
        return ast.parse(cells[0].source).body
    except SyntaxError as error:
        raise ValueError(f"{path}: the parameters cell is not plain Python: {error}") from None


def _declarations(path) -> dict:
    """Parameter name -> (default, whether its annotation, such as `float | None`, allows None)."""
    path = Path(path).expanduser()
    about = path.stat()
    return copy.deepcopy(_declarations_at(path, about.st_size, about.st_mtime_ns))


@lru_cache(maxsize=100)
def _declarations_at(path: Path, size: int, changed: int) -> dict:
    """Those of a file, read once a process: a sweep asks for them at every point."""
    declared = {}
    for statement in _parameter_statements(path):
        annotation = getattr(statement, "annotation", None)
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
        source = ast.unparse(statement)
        if len(targets) != 1 or not isinstance(targets[0], ast.Name):
            raise ValueError(f"{path}: in the parameters cell, {source!r} is not `name = literal`")
        try:
            default = ast.literal_eval(statement.value)
        except (ValueError, TypeError):
            raise ValueError(
                f"{path}: in the parameters cell, the value in {source!r} is not a literal; "
                "papermill sets parameters after this cell, so derive values in a later one"
            ) from None
        if targets[0].id in declared:
            raise ValueError(f"{path}: parameter {targets[0].id!r} is assigned twice")
        optional = annotation is not None and "None" in ast.unparse(annotation)
        declared[targets[0].id] = default, optional
    return declared


def notebook_parameters(path) -> dict:
    """Parameters of a notebook and their defaults, from the cell tagged `parameters`.

    Parameters
    ----------
    path : path-like
        The notebook; nothing in it is executed.

    Raises
    ------
    ValueError
        If there is no such cell, or it holds anything but `name = literal` (an annotation is fine).
    """
    return {name: default for name, (default, _) in _declarations(path).items()}


def own_parameters() -> tuple[str, dict]:
    """Name of the notebook that is running, and its parameters as they are now.

    The kernel works in the notebook's folder; the notebook is the one there whose parameters cell
    was executed. Values are the kernel's own, so those that papermill has set after that cell, or a
    user by hand, are the ones returned.

    Returns
    -------
    (stem, parameters) : (str, dict)
        Such as ``("04_finetune", {"rank_conv2": 64, ...})``.

    Raises
    ------
    RuntimeError
        Outside a notebook, or if no notebook in the working folder declares parameters by a cell
        that was executed.
    """
    from IPython import get_ipython  # here: the command line does without it

    shell = get_ipython()
    if shell is None:
        raise RuntimeError("own_parameters works in a notebook's kernel; this is none")
    history = [source for source in shell.user_ns["In"] if source]
    # In order: what sets the same names later is not the cell.
    for names in map(_assigned, history) if history else _runs_of_names(shell):
        if path := _declaring(names):
            return path.stem, {name: shell.user_ns[name] for name in notebook_parameters(path)}
    raise RuntimeError(
        f"no notebook in {Path.cwd()} has a cell tagged 'parameters' that was executed here; "
        "run that cell first, and save the notebook if its parameters are new"
    )


def _runs_of_names(shell) -> list[tuple[str, ...]]:
    """Names of the user that were set one after the other, the longest runs first.

    For kernels that keep no history of cells, as under nbval: there the names alone tell what the
    cell of parameters, which is executed first, has set.
    """
    hidden = shell.user_ns_hidden
    names = [name for name in shell.user_ns if name[0] != "_" and name not in hidden]
    return [tuple(names[:count]) for count in range(len(names), 0, -1)]


def _declaring(names: tuple[str, ...]) -> Path | None:
    """The notebook in the working folder whose parameters have these names.

    Copies beside it have longer names; hidden ones are runs in progress.
    """
    paths = Path.cwd().glob("[!.]*.ipynb") if names else []
    for path in sorted(paths, key=lambda path: (len(path.stem), path.stem)):
        try:
            if tuple(notebook_parameters(path)) == names:
                return path
        except ValueError:
            continue  # without a cell of parameters: not one of ours
    return None


def _assigned(source: str) -> tuple[str, ...]:
    """Names of a cell that only assigns, in order; an empty tuple for any other."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return ()  # magics and the like
    targets = [getattr(s, "target", None) or getattr(s, "targets", [None])[0] for s in statements]
    return tuple(t.id for t in targets) if all(isinstance(t, ast.Name) for t in targets) else ()


def _fits(value, default) -> bool:
    if default is None:
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, (list, tuple)):
        return isinstance(value, (list, tuple)) and _all_fit(value, default)
    if isinstance(default, dict):
        return isinstance(value, dict) and _all_fit(value.values(), default.values())
    return isinstance(value, type(default))


def _all_fit(values, defaults) -> bool:
    return not defaults or all(any(_fits(value, d) for d in defaults) for value in values)


def check_parameters(path, given: dict) -> dict:
    """Check parameters against those a notebook has; no kernel is started.

    A value must have the type of the default (an int will do for a float, lists and dicts are
    checked by element). A default of None, or an annotation with `| None`, accepts None as well.

    Returns
    -------
    dict
        The given parameters, NumPy and torch scalars among them made plain numbers.

    Raises
    ------
    UnknownParameterError
        If the notebook has no parameter of that name.
    TypeError
        If a value is of another type than the default.
    """
    declared = _declarations(path)
    given = plain(given, "parameters")
    name_of = Path(path).name
    for name, value in given.items():
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            known = ", ".join(f"{key}={default!r}" for key, (default, _) in declared.items())
            raise UnknownParameterError(
                f"{name_of} has no parameter {name!r}{hint}; it has: {known or 'none'}"
            )
        default, optional = declared[name]
        if not _fits(value, default) and not (value is None and optional):
            raise TypeError(
                f"{name_of}: {name}={value!r} is of type {type(value).__name__}; accepted is "
                f"{type(default).__name__}{' or None' if optional else ''}, like the "
                f"default {default!r}"
            )
    return given


def load_parameters(path, notebooks=()) -> dict:
    """Read a YAML file that maps notebook names (without .ipynb) to their parameters, and check it.

    Parameters
    ----------
    path : path-like
        The file, read by the rules of YAML 1.2: 010 is ten, ``yes`` and 1:30 are text. A name
        without parameters stands for the defaults.
    notebooks : sequence of path-like
        Notebooks that may be named, besides all those in their folders.

    Returns
    -------
    dict of str to dict

    Raises
    ------
    ValueError
        If the file is no such mapping, has a name twice, or names an unknown notebook or parameter;
        or if a name stands for two notebooks.
    TypeError
        If a value is of another type than the parameter's default.
    """
    content = read_yaml(path)
    content = {} if content is None else content
    if not isinstance(content, dict) or not all(
        isinstance(given, (dict, type(None))) for given in content.values()
    ):
        raise ValueError(f"{path}: expected `notebook: {{parameter: value, ...}}` entries")
    known = _notebooks_by_name([Path(notebook).expanduser() for notebook in notebooks])
    for stem, given in content.items():
        if stem not in known:
            raise ValueError(f"{path}: no notebook {stem!r}; there are {', '.join(sorted(known))}")
        if len(known[stem]) > 1:
            both = " and ".join(map(str, known[stem][:2]))
            raise ValueError(f"{path}: {stem!r} stands for two notebooks, {both}")
        try:
            content[stem] = check_parameters(known[stem][0], given or {})
        except (ValueError, TypeError) as error:
            raise type(error)(f"{path}: {error}") from None
    return content


def _notebooks_by_name(notebooks: list[Path]) -> dict[str, list[Path]]:
    """Files of each name: of the given notebooks, or else of the others in their folders."""
    given, others = {}, {}
    for file in dict.fromkeys(notebook.resolve() for notebook in notebooks):
        given.setdefault(file.stem, []).append(file)
    for folder in dict.fromkeys(file.parent for files in given.values() for file in files):
        for file in sorted(folder.glob("*.ipynb")):
            others.setdefault(file.stem, []).append(file)
    return others | given
