"""Model surgery: replace named convolutions of a network by factored ones.

The paper's procedure (Lebedev et al., ICLR 2015) is one call of :func:`decompose` a layer,
each followed by fine-tuning the entire network (:func:`cpnb.finetune`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import contextmanager

from torch import nn

from cpnb.cp import check_rank
from cpnb.layers import CPConv2d, check_conv


def decompose(
    model: nn.Module, ranks: Mapping[str, int], method: str = "nls", **solver_options
) -> nn.Module:
    """Return a copy of ``model`` in which the named convolutions are factored.

    Parameters
    ----------
    model : nn.Module
        Left untouched; it may hold factored layers already, of other names.
    ranks : mapping of str to int
        Layer name, as in ``model.named_modules()``, to its rank: ``{"conv2": 64, "conv3": 64}``.
    method : {"nls", "als", "greedy"}
    **solver_options
        Passed to the solver, see :meth:`cpnb.CPConv2d.from_conv`.

    Returns
    -------
    nn.Module
        Same class, dtype, device and training mode.

    Raises
    ------
    TypeError
        ``ranks`` is not a mapping; a named layer is not a convolution, or is decomposed already.
    ValueError
        ``ranks`` is empty, or names a layer that does not exist (those that do are listed);
        unknown ``method``; a rank < 1.
    """
    if not isinstance(ranks, Mapping):
        raise TypeError(f'ranks must map layer names to ranks, as {{"conv2": 64}}, got {ranks!r}')
    if not ranks:
        known = ", ".join(convolution_names(model))
        raise ValueError(f"ranks must name at least one of {known}, got none")
    # All names and ranks before any work: a solver can take minutes.
    layers = {name: get_convolution(model, name) for name in ranks}
    for name, rank in ranks.items():
        with _named(name):
            check_rank(rank, layers[name].weight.chunk(layers[name].groups)[0].shape)
    small = copy.deepcopy(model)
    for name, rank in ranks.items():
        with _named(name):
            factored = CPConv2d.from_conv(layers[name], rank, method=method, **solver_options)
        parent, _, child = name.rpartition(".")
        setattr(small.get_submodule(parent), child, factored)
    return small


def get_convolution(model: nn.Module, name: str) -> nn.Conv2d:
    """The convolution of that name.

    Raises
    ------
    ValueError
        There is no such layer; the message lists the convolutions there are.
    TypeError
        The layer is no convolution, or is decomposed already.
    """
    modules = dict(model.named_modules())
    if name not in modules or name == "":
        known = ", ".join(convolution_names(model)) or "(none left)"
        raise ValueError(
            f"no layer {name!r} in {type(model).__name__}; its convolutions are {known}"
        )
    check_conv(modules[name], f"layer {name!r}")
    return modules[name]


@contextmanager
def _named(name: str):
    """Name the layer in errors of the solvers, which know only tensors."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"layer {name!r}: {error}") from error


def convolution_names(model: nn.Module) -> list[str]:
    """Names of the convolutions of ``model`` that are still dense, in order."""
    inside = tuple(
        f"{name}." if name else "" for name, m in model.named_modules() if isinstance(m, CPConv2d)
    )
    return [
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and not (inside and name.startswith(inside))
    ]
