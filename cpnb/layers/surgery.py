"""Model surgery: replace named layers of a network by factored ones.

The paper's procedure (Lebedev et al., ICLR 2015) is one call of :func:`decompose` a layer,
each followed by fine-tuning the entire network (:func:`cpnb.finetune`). Its rivals' layers come
from the same call, by ``method=``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import contextmanager

from torch import nn

from cpnb.layers.cp import CPConv2d, check_conv
from cpnb.layers.factored import Factored
from cpnb.layers.methods import check_options, get_method

FACTORED = (CPConv2d, Factored)


def decompose(
    model: nn.Module, ranks: Mapping[str, int], method: str = "nls", **solver_options
) -> nn.Module:
    """Return a copy of ``model`` in which the named layers are factored.

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
        ``ranks`` is not a mapping; a named layer is of another kind, or is decomposed already;
        an unknown option.
    ValueError
        ``ranks`` is empty, or names a layer that does not exist (those that do are listed);
        unknown ``method``; a rank < 1; a layer that the method does not fit.
    """
    how = get_method(method)
    if not isinstance(ranks, Mapping):
        raise TypeError(f'ranks must map layer names to ranks, as {{"conv2": 64}}, got {ranks!r}')
    if not ranks:
        known = ", ".join(layer_names(model, how.takes))
        raise ValueError(f"ranks must name at least one of {known}, got none")
    check_options(method, how, solver_options)
    # All names and ranks before any work: a solver can take minutes.
    get = get_linear if how.takes is nn.Linear else get_convolution
    layers = {name: get(model, name) for name in ranks}
    options = {name: _own_options(name, solver_options) for name in ranks}
    for name, rank in ranks.items():
        with _named(name):
            how.check(layers[name], rank, **options[name])
    small = copy.deepcopy(model)
    for name, rank in ranks.items():
        with _named(name):
            factored = how.make(layers[name], rank, **options[name])
        parent, _, child = name.rpartition(".")
        setattr(small.get_submodule(parent), child, factored)
    return small


def _own_options(name: str, options: dict) -> dict:
    weight = options.get("weight")
    return options | {"weight": weight.get(name)} if isinstance(weight, Mapping) else options


def get_convolution(model: nn.Module, name: str) -> nn.Conv2d:
    """The convolution of that name.

    Raises
    ------
    ValueError
        There is no such layer; the message lists the convolutions there are.
    TypeError
        The layer is no convolution, or is decomposed already.
    """
    layer = _get_layer(model, name, nn.Conv2d, "convolutions")
    check_conv(layer, f"layer {name!r}")
    return layer


def get_linear(model: nn.Module, name: str) -> nn.Linear:
    """The fully-connected layer of that name; errors as those of :func:`get_convolution`."""
    layer = _get_layer(model, name, nn.Linear, "fully-connected layers")
    if not isinstance(layer, nn.Linear):
        raise TypeError(
            f"layer {name!r} must be an nn.Linear for method 'svd', got {type(layer).__name__}; "
            "for convolutions take one of the other methods"
        )
    return layer


def _get_layer(model: nn.Module, name: str, kind: type, plural: str) -> nn.Module:
    modules = dict(model.named_modules())
    if name not in modules or name == "":
        known = ", ".join(layer_names(model, kind)) or "(none left)"
        raise ValueError(f"no layer {name!r} in {type(model).__name__}; its {plural} are {known}")
    layer = modules[name]
    if isinstance(layer, FACTORED):
        raise TypeError(
            f"layer {name!r} is already a {type(layer).__name__}; use its "
            f"{'to_linear' if hasattr(layer, 'to_linear') else 'to_conv'}() to decompose it anew"
        )
    return layer


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
        f"{name}." if name else "" for name, m in model.named_modules() if isinstance(m, FACTORED)
    )
    return [
        name
        for name, m in model.named_modules()
        if isinstance(m, kind) and not (inside and name.startswith(inside))
    ]


def convolution_names(model: nn.Module) -> list[str]:
    """Names of the convolutions of ``model`` that are still dense, in order."""
    return layer_names(model, nn.Conv2d)
