"""One line records a run of a notebook: its parameters are found, what came out is given."""

from __future__ import annotations

from torch import nn

from cpnb.inference.counts import count_multiplies
from cpnb.inference.latency import measure_fastest, speedup
from cpnb.runs import records
from cpnb.runs.parameters import own_parameters


def record(claim: str, *parts: dict, **values) -> dict:
    """Write the record of this notebook's run; see :func:`cpnb.record`.

    Parameters
    ----------
    claim : str
        What the run shows, such as "charnet-finetune".
    *parts : dict
        Columns that belong together, such as `fits` and `versus` return.
    **values
        Further columns.

    Returns
    -------
    dict
        The row: ``notebook`` and ``parameters`` (see `own_parameters`) beside what was given.

    Raises
    ------
    ValueError
        If a column is given twice.
    """
    notebook, parameters = own_parameters()
    columns = {"notebook": notebook, "parameters": parameters}
    for part in (*parts, values):
        if twice := sorted(columns.keys() & part.keys()):
            raise ValueError(f"{', '.join(twice)}: given twice")
        columns |= part
    return records.record(claim, **columns)


def fits(model: nn.Module, layers) -> dict:
    """Columns of a model's factored layers: names, ranks, relative errors, degeneracies."""
    found = [model.get_submodule(name) for name in layers]
    return {
        "layers": list(layers),
        "ranks": [layer.rank for layer in found],
        "rel_error": [layer.rel_error for layer in found],
        "degeneracy": [getattr(layer, "degeneracy", None) for layer in found],
    }


def versus(dense: nn.Module, factored: nn.Module, example, **options) -> dict:
    """Columns of a speed comparison: multiplies and latency of both nets, measured in turns.

    Parameters
    ----------
    dense, factored : nn.Module
        Each is measured in both memory layouts; the faster one counts.
    example : Tensor
        One input batch.
    **options
        See :func:`cpnb.measure_interleaved`.

    Returns
    -------
    dict
        multiplies_dense, multiplies (of one sample), bound (their ratio), latency_dense, latency
        (`Latency`), layout_dense, layout, speedup, input (the example's shape).
    """
    counts = count_multiplies(dense, example), count_multiplies(factored, example)
    measured = measure_fastest({"dense": dense, "factored": factored}, example, **options)
    (layout_dense, slow), (layout, fast) = measured["dense"], measured["factored"]
    return {
        "multiplies_dense": counts[0],
        "multiplies": counts[1],
        "bound": counts[0] / counts[1],
        "latency_dense": slow,
        "latency": fast,
        "layout_dense": layout_dense,
        "layout": layout,
        "speedup": speedup(slow, fast),
        "input": list(example.shape),
    }
