"""A copy of a model to operate on, and whether the copy stands on its own.

`copy.deepcopy` copies modules, containers and bound methods, but not functions: one that a model
keeps as an attribute, and that holds a part of it, still calls the model that was copied. Nor does
it copy the hooks of parameters, and some things cannot be copied at all. None of it goes unsaid.
"""

from __future__ import annotations

import copy
import functools
import types
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cpnb.layers.plain import evaluating, hook_remover, type_name

REGISTERED = ("_modules", "_parameters", "_buffers")


def copied(model: nn.Module, shared=()) -> nn.Module:
    """A deep copy of ``model``, or a TypeError that names the part that cannot be copied.

    Parameters
    ----------
    model : nn.Module
    shared : iterable of Tensor
        Parameters and buffers that both have.

    Warns
    -----
    UserWarning
        Parameters have hooks, which are not copied.
    """
    try:
        twin = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    except Exception as error:
        raise TypeError(
            f"model must be one that copy.deepcopy can copy, {_culprit(model) or 'and is not'} "
            f"({type(error).__name__}: {error})"
        ) from error
    hooked = [name for name, p in model.named_parameters() if has_hooks(p)]
    if hooked:
        warnings.warn(
            f"hooks on parameters are not copied: those of {', '.join(hooked)}; register them anew "
            "on the model that is returned",
            stacklevel=3,
        )
    return twin


def has_hooks(parameter: Tensor) -> bool:
    """Whether something hangs on the parameter's gradient."""
    return bool(parameter._backward_hooks) or bool(
        getattr(parameter, "_post_accumulate_grad_hooks", None)
    )


def _culprit(model: nn.Module) -> str | None:
    """What cannot be copied, and what to do first; the innermost part of the model comes first."""
    parts = {id(part): part for part in model.modules()}  # each is looked at by itself
    for name, part in reversed(list(model.named_modules())):
        for key, value in _attributes(part):
            try:
                copy.deepcopy(value, dict(parts))
            except Exception:
                path, remover = f"{name}.{key}".lstrip("."), hook_remover(part)
                if remover:
                    return f"got {path!r}, which a hook computes; call {remover} on {name!r} first"
                if isinstance(value, Tensor):
                    return f"got {path!r}, a tensor with a history; detach it, or set it to None"
                return f"got {path!r}, a {type_name(value)}; set it to None first"
    return None


def _attributes(part: nn.Module) -> Iterator[tuple[str, object]]:
    for key, value in vars(part).items():
        if key in REGISTERED:
            yield from value.items() if key != "_modules" else ()
        else:
            yield key, value


def require_own_functions(twin: nn.Module, model: nn.Module) -> None:
    """Raise a ValueError if a function in the copy holds a part of ``model``; of hooks, warn."""
    theirs = {id(part): name or "the model" for name, part in model.named_modules()}
    hooks = vars(nn.Module())
    for path, leaf, inside in held_things(twin):
        if not inside or id(leaf) not in theirs:
            continue
        what = f"{path!r} is a function that holds {theirs[id(leaf)]!r}"
        if path.rpartition(".")[2] in hooks:
            warnings.warn(f"{what} of the model given, not of the new one", stacklevel=3)
        else:
            raise ValueError(
                f"model must not keep functions that hold parts of it: {what}, and in a copy would "
                "still call that of the model given; make it a method, or pass example= to show "
                "that it does no harm"
            )


def held_things(model: nn.Module) -> Iterator[tuple[str, object, bool]]:
    """What attributes of the model's parts hold besides the registered parts and parameters.

    Yields
    ------
    path, thing, inside
        Dotted name of the attribute, what it is or holds in plain containers however deep, and
        whether a function holds it.
    """
    seen = set()
    for name, part in model.named_modules():
        for key, value in vars(part).items():
            if key not in REGISTERED:
                for leaf, inside in _leaves(value, seen, False):
                    yield f"{name}.{key}".lstrip("."), leaf, inside


def _leaves(value, seen: set, inside: bool) -> Iterator[tuple[object, bool]]:
    if isinstance(value, (list, tuple, set, frozenset)):
        parts = value
    elif isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, functools.partial):
        parts = (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, types.MethodType):
        parts = (value.__func__, value.__self__)
    elif isinstance(value, types.FunctionType):
        cells = [cell for cell in value.__closure__ or () if cell != types.CellType()]
        kept = (value.__defaults__ or (), (value.__kwdefaults__ or {}).values())
        parts, inside = (*(cell.cell_contents for cell in cells), *kept[0], *kept[1]), True
    else:
        yield value, inside
        return
    if id(value) not in seen:
        seen.add(id(value))
        for part in parts:
            yield from _leaves(part, seen, inside)


@torch.no_grad()
def require_used(twin: nn.Module, model: nn.Module, names, example) -> None:
    """Raise a ValueError unless the copy, run on ``example``, calls the layers of these names.

    No part of ``model``, that it is a copy of, may be called.
    """
    called, strayed = set(), []
    layers = {name: twin.get_submodule(name) for name in names}
    hooks = [
        part.register_forward_pre_hook(lambda *_, name=name: strayed.append(name or "the model"))
        for name, part in model.named_modules()
    ]
    for layer in set(layers.values()):  # not by hooks: a model may call `forward` itself
        layer.forward = functools.partial(_noted, layer.forward, called, layer)
    try:
        with evaluating(twin):
            _run(twin, example)
    finally:
        for layer in set(layers.values()):
            del layer.forward
        for hook in hooks:
            hook.remove()
    if strayed:
        raise ValueError(
            f"model must not keep functions that hold parts of it: a copy of it still calls "
            f"{strayed[0]!r} of the model given; make that function a method"
        )
    idle = [name for name, layer in layers.items() if layer not in called]
    if idle:
        raise ValueError(
            f"layer {idle[0]!r} is never called when the model runs on example: it is not used, or "
            "nothing but its weight is; there is nothing to gain by factoring it"
        )


def _noted(forward, called: set, layer: nn.Module, *args, **keywords):
    called.add(layer)
    return forward(*args, **keywords)


def _run(model: nn.Module, example) -> None:
    args = example if isinstance(example, tuple) else (example,)
    try:
        model(**example) if isinstance(example, dict) else model(*args)
    except Exception as error:
        raise ValueError(
            f"example must be what {type(model).__name__} takes, a tensor, a tuple of arguments or "
            f"a dict of keywords; it raises {type(error).__name__}: {error}"
        ) from error
