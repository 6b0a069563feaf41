"""Every method that `cpnb.decompose` knows, by name: the paper's, and those it is compared with.

=============  ======================================  =====================================
method         source                                  what "rank" is
=============  ======================================  =====================================
nls, als,      CP: Lebedev et al. (2015), and its      R, rank-one terms of each group
greedy         baselines
jaderberg      Jaderberg et al. (2014); ``scheme=2``   K, vertical filters of each group;
               or 1                                    scheme 1: M, filters of each input map
biclustering   Denton et al. (2014);                   K, terms of a block;
               ``clusters=(G, H)``, ``blocks=``        "svd" blocks: K or (K₁, K₂)
               "greedy" or "svd"
monochromatic  Denton et al. (2014), first layer       C′, colours
svd            Denton et al. (2014), linear layers     K, singular values
tucker         Kim et al. (2016)                       (R_S, R_T), a share of energy, or "vbmf"
=============  ======================================  =====================================

The rivals also take ``weight=`` (Σ of the input maps) and ``output_weight=``, see
:meth:`cpnb.layers.factored.FactoredConv2d.from_conv`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from cpnb.cp.algebra import check_rank
from cpnb.layers.cp import SOLVERS, CPConv2d
from cpnb.layers.denton import BiclusteredConv2d, MonochromaticConv2d
from cpnb.layers.jaderberg import SeparableBasis, VerticalHorizontal
from cpnb.layers.svd import SVDLinear
from cpnb.layers.tucker import TuckerConv2d


class Method(NamedTuple):
    """How one method factors one layer.

    ``check(layer, rank, **options)`` raises before any work, or returns the rank in Python's own
    numbers; ``make(layer, rank, **options)`` returns the factored layer; ``takes`` is the type of
    the layer; ``accepts`` names the options, none where the solver checks them itself.
    """

    takes: type
    check: Callable
    make: Callable
    accepts: tuple[str, ...] | None = None


def _cp(solver: str) -> Method:
    def check(conv, rank, **options):
        return check_rank(rank, conv.weight.chunk(conv.groups)[0].shape)

    def make(conv, rank, **options):
        return CPConv2d.from_conv(conv, rank, method=solver, **options)

    return Method(nn.Conv2d, check, make)


def _keywords(function: Callable, skip: int) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)[skip:]


def _rival(layer: type) -> Method:
    accepts = ("weight", "output_weight", *_keywords(layer.fit, 2))

    def check(conv, rank, weight=None, output_weight=None, **options):
        return layer.check(conv, rank, **options)

    return Method(nn.Conv2d, check, layer.from_conv, accepts)


def _schemes() -> Method:
    schemes = {1: _rival(SeparableBasis), 2: _rival(VerticalHorizontal)}

    def of(scheme) -> Method:
        if scheme not in schemes:
            raise ValueError(f"scheme of method 'jaderberg' must be 1 or 2, got {scheme!r}")
        return schemes[scheme]

    def check(conv, rank, scheme=2, **options):
        method = of(scheme)
        check_options(f"jaderberg (scheme {scheme})", method, options)
        return method.check(conv, rank, **options)

    def make(conv, rank, scheme=2, **options):
        return of(scheme).make(conv, rank, **options)

    return Method(nn.Conv2d, check, make)


METHODS = {name: _cp(name) for name in SOLVERS} | {
    "jaderberg": _schemes(),
    "biclustering": _rival(BiclusteredConv2d),
    "monochromatic": _rival(MonochromaticConv2d),
    "svd": Method(
        nn.Linear,
        lambda linear, rank, **options: SVDLinear.check(linear, rank),
        SVDLinear.from_linear,
        ("weight", "output_weight"),
    ),
    "tucker": _rival(TuckerConv2d),
}


def check_options(name: str, method: Method, options: dict) -> None:
    """Raise a TypeError that lists the options of ``method`` if one is unknown."""
    unknown = sorted(set(options) - set(method.accepts or options))
    if unknown:
        raise TypeError(
            f"unknown option {', '.join(unknown)} for method {name!r}; accepted: "
            f"{', '.join(method.accepts)}"
        )


def get_method(name) -> Method:
    """The method of that name; a ValueError lists those that there are."""
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]
