"""Tables of what a page has just computed."""

from __future__ import annotations

from torch import nn

from cpnb.inference.counts import multiplies_per_layer
from cpnb.study.tables.layout import Table, percent, rounded, show


def multiplies(net: nn.Module, example) -> Table:
    """Multiplies of each layer for one sample of `example`, and its share of the whole net's."""
    counts = multiplies_per_layer(net, example)
    total = sum(counts.values())
    rows = [{"layer": name, "count": n, "share": n / total} for name, n in counts.items()]
    columns = {
        "layer": ("layer", "{}"),
        "count": ("multiplies a patch", "{:,}"),
        "share": ("share of the net", percent),
    }
    return show(rows, columns)


def solver_results(results: dict) -> Table:
    """Where solvers ended: what `figures.solver_curves` draws, in figures.

    Parameters
    ----------
    results : dict of str to CPResult
        Solver's name to its result.
    """
    rows = [
        {
            "solver": name,
            "error": cp.rel_error,
            "degeneracy": cp.degeneracy,
            "steps": len(cp.history),
            "seconds": cp.history[-1].seconds,
        }
        for name, cp in results.items()
    ]
    columns = {
        "solver": ("solver", "{}"),
        "error": ("relative error", "{:.4f}"),
        "degeneracy": ("degeneracy", rounded),
        "steps": ("steps, sweeps or terms", "{}"),
        "seconds": ("seconds", "{:.2f}"),
    }
    return show(rows, columns)
