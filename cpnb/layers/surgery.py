"""Model surgery: replace named layers of a network by factored ones.

The paper's procedure (Lebedev et al., ICLR 2015) is one call of :func:`decompose` a layer,
each followed by fine-tuning the entire network (:func:`cpnb.finetune`). Its rivals' layers come
from the same call, by ``method=``.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager

import torch
from torch import nn

from cpnb.layers.copies import copied, require_own_functions, require_used
from cpnb.layers.methods import check_options, get_method
from cpnb.layers.plain import plain, type_name
from cpnb.layers.replacing import become, leave_shortcuts, warn_of_cost, warn_of_ties
from cpnb.layers.stand_in import StandIn


def decompose(
    model: nn.Module, ranks: Mapping[str, int], method: str = "nls", *, example=None,
    **solver_options,
) -> nn.Module:  # fmt: skip
    """Return a copy of ``model`` in which the named layers are factored.

    A layer that stands at several places, under other names or in plain lists, is factored at all
    of them. Its forward and full backward hooks move along.

    Parameters
    ----------
    model : nn.Module
        Left untouched; it may hold factored layers already, of other names.
    ranks : mapping of str to int
        Layer name, as in ``model.named_modules()``, to its rank: ``{"conv2": 64, "conv3": 64}``.
        What a rank is depends on the method, see :mod:`cpnb.layers.methods`.
    method : {"nls", "als", "greedy", "jaderberg", "biclustering", "monochromatic", "svd", "tucker"}
        CP by one of three solvers; or a rival. "svd" factors fully-connected layers, all others
        convolutions.
    example : Tensor, tuple of arguments or dict of keywords, optional
        What the model takes. It is run before and after the surgery, in evaluation mode, to show
        that it does call the named layers.
    **solver_options
        Passed to the solver, see :meth:`cpnb.CPConv2d.from_conv` and :mod:`cpnb.layers.methods`. A
        mapping by layer name as ``weight`` gives each layer its own.

    Returns
    -------
    nn.Module
        Same class, dtype, device and training mode.

    Raises
    ------
    TypeError
        ``model`` is none, or cannot be copied; ``ranks`` is not a mapping; a named layer is of
        another kind, is decomposed already, or computes something else than its weights say
        (see :func:`cpnb.layers.plain.plain`); an unknown option.
    ValueError
        ``ranks`` is empty, names a layer that does not exist (those that do are listed), or one
        layer twice; unknown ``method``; a rank < 1; a layer that the method does not fit, or that
        the model does not call on ``example``; the model keeps a function that holds parts of it.

    Warns
    -----
    UserWarning
        A factored layer takes more multiplies than the dense one; hooks or parametrizations that
        are lost; weights that the layer shares with another one.
    """
    how = get_method(method)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type_name(model)}")
    if not isinstance(ranks, Mapping):
        raise TypeError(f'ranks must map layer names to ranks, as {{"conv2": 64}}, got {ranks!r}')
    if not ranks:
        known = ", ".join(layer_names(model, how.takes))
        raise ValueError(f"ranks must name at least one of {known}, got none")
    check_options(method, how, solver_options)
    with torch.inference_mode(False):  # the result can be trained, wherever it was made
        # All names, ranks and the copy before any work: a solver can take minutes.
        layers = {name: _get(model, name, how.takes) for name in ranks}
        _require_one_name_each(model, ranks)
        options = {name: _own_options(name, solver_options) for name in ranks}
        ranks = {name: _checked(how, name, layers, ranks, options) for name in ranks}
        small = copied(model)
        warn_of_ties(small, ranks)
        if example is None:
            require_own_functions(small, model)
        else:
            require_used(small, model, ranks, example)
        for name, rank in ranks.items():
            with _named(name):
                factored = how.make(layers[name], rank, **options[name])
            warn_of_cost(layers[name], factored, name)
            become(small.get_submodule(name), factored, name)
        leave_shortcuts(small)
        if example is not None:
            require_used(small, model, ranks, example)
    return small


def _checked(how, name: str, layers: dict, ranks: Mapping, options: dict):
    """The rank of that name in Python's own numbers, if it fits the layer."""
    with _named(name):
        return how.check(layers[name], ranks[name], **options[name])


def _own_options(name: str, options: dict) -> dict:
    weight = options.get("weight")
    return options | {"weight": weight.get(name)} if isinstance(weight, Mapping) else options


def _require_one_name_each(model: nn.Module, names) -> None:
    first = {}
    for name in names:
        other = first.setdefault(model.get_submodule(name), name)
        if other != name:
            raise ValueError(
                f"ranks must name each layer once, got {other!r} and {name!r} for one and the same"
            )


def get_convolution(model: nn.Module, name: str) -> nn.Conv2d:
    """The convolution of that name.

    Raises
    ------
    ValueError
        There is no such layer; the message lists the convolutions there are.
    TypeError
        The layer is no convolution, is decomposed already, or computes something else than its
        weights say.
    """
    _get(model, name, nn.Conv2d)
    return model.get_submodule(name)


def _get(model: nn.Module, name: str, kind: type) -> nn.Module:
    """The layer of that name as a plain one, see :func:`cpnb.layers.plain.plain`."""
    layer = _find(model, name)
    if layer is None:
        plural = "convolutions" if kind is nn.Conv2d else "fully-connected layers"
        known = ", ".join(layer_names(model, kind)) or "(none left)"
        raise ValueError(f"no layer {name!r} in {type(model).__name__}; its {plural} are {known}")
    called = f"layer {name!r}"
    if kind is nn.Linear and isinstance(layer, nn.Conv2d):
        raise TypeError(
            f"{called} must be an nn.Linear for method 'svd', got {type_name(layer)}; for "
            "convolutions take one of the other methods"
        )
    dense = plain(layer, kind, called)
    if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.MultiheadAttention):
        raise TypeError(
            f"{called} must be called by the model, but nn.MultiheadAttention reads its weight "
            "alone: factored, it would save nothing; leave it out"
        )
    return dense


def _find(model: nn.Module, name: str) -> nn.Module | None:
    """The part of that name, which may be the second one of a part that stands at two places."""
    for path, part in model.named_modules():
        if path == name and path:
            return part
    try:
        return model.get_submodule(name) if name else None
    except (AttributeError, RuntimeError):
        return None


@contextmanager
def _named(name: str):
    """Name the layer in errors of the solvers, which know only tensors."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"layer {name!r}: {error}") from error


def layer_names(model: nn.Module, kind: type) -> list[str]:
    """Names of the layers of one type that are not decomposed yet, in order."""
    inside = tuple(
        f"{name}." if name else "" for name, m in model.named_modules() if isinstance(m, StandIn)
    )
    return [
        name
        for name, m in model.named_modules()
        if isinstance(m, kind) and not (inside and name.startswith(inside))
    ]


def convolution_names(model: nn.Module) -> list[str]:
    """Names of the convolutions of ``model`` that are still dense, in order."""
    return layer_names(model, nn.Conv2d)
