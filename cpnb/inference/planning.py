"""How a plan of ranks is made: errors, costs and sensitivities of every layer, then an allocation.

For each layer a curve of error against rank tells what a rank costs in outputs, together with the
layer's sensitivity (`cpnb.training.divergence`); multiplies or milliseconds tell what it saves. The
budget is then shared out by `cpnb.inference.allocation`. Nothing is trained and no label is read.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from tqdm.auto import tqdm

from cpnb.inference.costs import Cost, dense_milliseconds, milliseconds_cost, multiplies_cost
from cpnb.inference.counts import count_multiplies, multiplies_per_layer
from cpnb.inference.examples import check_pair
from cpnb.inference.plan import Plan, PlannedLayer, check_budget
from cpnb.inference.shapes import InputSize, input_sizes
from cpnb.layers.plain import plain
from cpnb.layers.surgery import layer_names
from cpnb.training.batches import image_batches
from cpnb.training.cuts import Reading
from cpnb.training.divergence import Trial, sensitivities
from cpnb.training.importance import output_metrics
from cpnb.training.layer_fit import LayerFit, Steps, is_large

LEAST_SHARE = 0.001  # of the net's multiplies: a layer with less is too small to pay
FACTORS = (1.3, 1.9, 3.0, 5.0, 9.0)  # fewer multiplies at which a curve is measured
STEPS = Steps(solver=25, fit=20)  # a curve needs no last digit
LARGE_FACTORS, LARGE_STEPS = (1.8, 5.0), Steps(solver=3, fit=6)  # of large layers


def plan(
    model: nn.Module,
    example: Tensor,
    data=None,
    *,
    multiplies: float | None = None,
    speedup: float | None = None,
    layers=None,
    progress: bool = True,
) -> Plan:
    """Plan the ranks of a network so that the expected loss within a budget is least.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits; left as it was.
    example : Tensor
        One input batch (N, ...): sizes of maps, and the batch whose milliseconds count.
    data : Tensor, Dataset or DataLoader, optional
        A few hundred images, with labels, which are not used, or without. Errors are then those
        of the outputs on these images; else those of the kernels, and all layers are taken to be
        equally sensitive, which they are not.
    multiplies : float
        Budget: the share of the whole net's multiplies to keep, above 0 and below 1.
    speedup : float
        Budget, instead: how many times faster the whole net is to be on this machine, above 1, by
        the milliseconds of single layers, each in the runtime that is fastest for it.
    layers : list of str, optional
        Layers that may be factored; by default all that CP or the SVD suits, but the first and
        those with less than a thousandth of the multiplies.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Plan

    Raises
    ------
    TypeError
        model is no ``nn.Module``, example no tensor, or data hold something else than images.
    ValueError
        A budget out of range, or that cannot be met (the message says what can); a layer named
        that does not exist; no images; a model that cannot be run on the example.
    """
    check_budget(multiplies, speedup)
    check_pair("plan", model, example)
    require_images(data)
    sizes = sizes_on(model, example)
    found = _candidates(model, example, sizes, layers)
    whole = dense_milliseconds(model, example)
    trials, reading, metrics = {}, Reading([model], data), {}
    if data is not None:
        open_ones = [n for n, layer in found.items() if layer.method == "nls" and not layer.reason]
        metrics = output_metrics(model, data, open_ones)
    following = dict(zip(found, list(found)[1:], strict=False))
    for name in tqdm(found, desc="plan", unit="layer", disable=not progress):
        tried = _measure(reading, model, name, found[name], sizes[name], metrics.get(name))
        if tried is not None:
            behind = following.get(name, "")
            behind = behind if behind and found[behind].method else ""
            trials[name] = Trial.of(*reading.models, name, *tried, behind, reading.data)
    if trials:
        for name, value in sensitivities(model, trials, data, progress=progress).items():
            found[name].sensitivity = value
    single = sum(layer.milliseconds.dense for layer in found.values())
    if single > whole:  # by itself a layer takes longer than inside of the network
        for layer in found.values():
            layer.milliseconds = layer.milliseconds.scaled(whole / single)
    counted = sum(layer.multiplies.dense for layer in found.values())
    rest = {
        "multiplies": count_multiplies(model, example) - counted,
        "milliseconds": max(whole - single, 0.0),
    }
    return Plan({}, found, rest).within(multiplies, speedup)


def sizes_on(model: nn.Module, example: Tensor) -> dict[str, InputSize]:
    """Input sizes of the layers, or a ValueError if the model cannot be run on the example."""
    try:
        return input_sizes(model, example)
    except Exception as error:
        raise ValueError(
            f"model cannot be run on the example of shape {tuple(example.shape)}: {error}"
        ) from error


def require_images(data) -> None:
    """Raise unless the data, if there are any, give images."""
    if data is not None and next(iter(image_batches(data, 1, name="data")), None) is None:
        raise ValueError("data has no images; a few hundred serve")


def _candidates(model, example, sizes, layers) -> dict[str, PlannedLayer]:
    """Every layer with multiplies, and why it stays dense, if it must."""
    counts = {n: c for n, c in multiplies_per_layer(model, example).items() if n in sizes}
    dense = layer_names(model, (nn.Conv2d, nn.Linear))
    unknown = [name for name in layers or () if name not in dense]
    if unknown:
        raise ValueError(f"layers names {', '.join(unknown)}; there are {', '.join(sorted(dense))}")
    found, total = {}, sum(counts.values())
    for name, count in counts.items():
        module = model.get_submodule(name)
        method, reason = _method(module, name in dense)
        if layers is not None and name not in layers:
            reason = "not asked for"
        elif layers is None and not found:
            reason = "first layer"
        elif layers is None and count < LEAST_SHARE * total:
            reason = reason or "too small to pay"
        cost = multiplies_cost(module, sizes[name], count)
        none = Cost(math.nan, math.nan, math.nan)
        found[name] = PlannedLayer(tuple(module.weight.shape), cost, none, method, reason=reason)
    return found


def _method(module: nn.Module, dense: bool) -> tuple[str, str]:
    """The method for a layer, or why there is none."""
    if not dense:
        return "", "factored already"
    try:
        plain(module, nn.Linear if isinstance(module, nn.Linear) else nn.Conv2d)
    except (TypeError, ValueError):
        return "", f"a {type(module).__name__} that computes something of its own"
    if isinstance(module, nn.Linear):
        return "svd", ""
    if module.groups > 1 and module.groups == module.in_channels:
        return "", "depthwise"
    if module.kernel_size == (1, 1):
        return "jaderberg", ""  # of a 1×1 kernel, its scheme 2 is the SVD as two 1×1 layers
    return "nls", ""


def _measure(reading: Reading, model, name: str, layer: PlannedLayer, size: InputSize, outputs):
    """Note the layer's costs in time and its curve.

    Returns a factored layer of middle rank and its error, for its sensitivity; None if there are
    no ranks, or no data to tell it by.
    """
    module = model.get_submodule(name)
    ranks = [] if layer.reason else _ranks(module, layer)
    layer.milliseconds = milliseconds_cost(module, size, ranks)
    if not ranks:
        layer.reason = layer.reason or "too small to pay"
        return None
    reading.advance(name)
    (upward,), data = reading.models, reading.data
    fit = LayerFit(upward, upward, name, layer.method, data, outputs)
    middle = ranks[(len(ranks) - 1) // 2]
    steps = LARGE_STEPS if fit.large else STEPS
    if layer.method == "nls":
        fits = {rank: fit.at(rank, steps) for rank in ranks}
        layer.curve = {rank: error for rank, (_, error) in fits.items()}
        return fits[middle] if data is not None else None
    layer.curve = fit.cut_errors(ranks)
    return fit.at(middle, steps) if data is not None else None


def _ranks(module: nn.Module, layer: PlannedLayer) -> list[int]:
    """Ranks to try, those whose multiplies are a good part fewer."""
    slow = layer.method == "nls" and is_large(layer.kernel)
    factors = LARGE_FACTORS if slow else FACTORS
    cost = layer.multiplies
    ranks = {max(1, int(cost.dense / (factor * cost.each))) for factor in factors}
    return sorted(r for r in ranks if cost(r) < cost.dense and r <= _most(module))


def _most(module: nn.Module) -> float:
    """The highest rank that a layer's method takes."""
    if isinstance(module, nn.Linear):
        return min(module.in_features, module.out_features)
    if module.kernel_size == (1, 1):
        return min(module.in_channels, module.out_channels) // module.groups
    return math.inf
