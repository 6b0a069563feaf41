"""Factored networks kept in a file, and rebuilt from it without solving anything.

The file is a safetensors one: the tensors of the whole network, and in its header what each
factored layer is made of (class, rank, errors, the shapes and options of its parts). The structure
of the network itself comes from a fresh model of the same class, as for any weights.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from cpnb.layers.copies import copied
from cpnb.layers.cp import CPConv2d
from cpnb.layers.denton import BiclusteredConv2d, MonochromaticConv2d
from cpnb.layers.jaderberg import SeparableBasis, VerticalHorizontal
from cpnb.layers.plain import OPTIONS
from cpnb.layers.replacing import become, leave_shortcuts
from cpnb.layers.stand_in import StandIn
from cpnb.layers.svd import SVDLinear
from cpnb.layers.tucker import TuckerConv2d
from cpnb.nets.weights import CheckpointError, check_fit, read_weights, save_weights

KINDS = {
    kind.__name__: kind
    for kind in (
        CPConv2d, VerticalHorizontal, SeparableBasis, BiclusteredConv2d, MonochromaticConv2d,
        TuckerConv2d, SVDLinear,
    )
}  # fmt: skip
PARTS = {"Conv2d": nn.Conv2d, "Linear": nn.Linear}
# Attributes of a factored layer that are neither parts nor tensors; those that it has are kept.
NOTES = ("rank", "ranks", "clusters", "rel_error", "degeneracy", "options")
FORMAT = "cpnb-factored-1"


def save_factored(model: nn.Module, path, metadata: dict | None = None) -> None:
    """Write a network with factored layers to one safetensors file, atomically.

    Parameters
    ----------
    model : nn.Module
        As :func:`cpnb.decompose` or :func:`cpnb.compress` returns it, fine-tuned or not.
    path : path-like
    metadata : dict, optional
        JSON-able notes of your own; :func:`load_factored` does not read them, `safetensors` does.
        The keys ``format`` and ``layers`` are taken: what they hold is overwritten.

    Raises
    ------
    TypeError
        model is no module, or has a factored layer of a class of your own.
    ValueError
        No layer of it is factored.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    layers = {name: m for name, m in model.named_modules() if isinstance(m, StandIn)}
    if not layers:
        raise ValueError("model has no factored layer; save_weights keeps a network as it is")
    told = {name: _described(name, layer) for name, layer in layers.items()}
    save_weights(model, path, (metadata or {}) | {"format": FORMAT, "layers": told})


def load_factored(model: nn.Module, path) -> nn.Module:
    """Rebuild a network that `save_factored` wrote, from a fresh dense one; nothing is solved.

    Parameters
    ----------
    model : nn.Module
        Dense, of the class and sizes of the one that was compressed; its weights do not matter. It
        is left as it was.
    path : path-like

    Returns
    -------
    nn.Module
        In evaluation mode, on ``model``'s device and in its dtype.

    Raises
    ------
    TypeError
        ``model`` is no ``nn.Module``.
    FileNotFoundError
        There is no such file.
    CheckpointError
        The file is damaged, holds no factored network, or one that does not fit ``model``: layers
        and tensors that differ are listed.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    tensors, header = read_weights(path)
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} holds no factored network; load_weights reads plain weights")
    small = copied(model)
    parts = dict(small.named_modules())
    _require_layers(parts, header["layers"], path)
    for name, told in header["layers"].items():
        become(parts[name], _rebuilt(told, parts[name].weight), name)
    leave_shortcuts(small)
    check_fit(small, tensors, path)
    small.load_state_dict(tensors)
    return small.eval()


def _described(name: str, layer: StandIn) -> dict:
    """All of a factored layer but its tensors' values."""
    if KINDS.get(type(layer).__name__) is not type(layer):
        raise TypeError(
            f"layer {name!r} is a {type(layer).__name__}; save_factored knows {', '.join(KINDS)}"
        )
    notes = {key: getattr(layer, key) for key in NOTES if key in vars(layer)}
    notes = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in notes.items()}
    return {
        "kind": type(layer).__name__,
        "notes": notes,
        "parts": {key: _part(part) for key, part in layer.named_children()},
        "buffers": {key: list(b.shape) for key, b in layer.named_buffers(recurse=False)},
        "replaces": _sizes(layer),
    }


def _part(part: nn.Module) -> dict:
    """Type and constructor's arguments of a plain layer."""
    kind = type(part).__name__
    options = {key: getattr(part, key) for key in OPTIONS[PARTS[kind]]}
    return {"kind": kind, "options": options | {"bias": part.bias is not None}}


def _sizes(layer: nn.Module) -> dict:
    """What a layer and the one that it stands for have in common."""
    keys = ("in_channels", "out_channels", "kernel_size", "in_features", "out_features")
    found = {key: getattr(layer, key) for key in keys if hasattr(layer, key)}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in found.items()}


def _require_layers(parts: dict[str, nn.Module], layers: dict, path) -> None:
    faults = [f"it has no layer {name!r}" for name in layers if name not in parts]
    for name, told in layers.items():
        if name in parts and told["replaces"] != (own := _sizes(parts[name])):
            faults.append(f"layer {name!r} was {told['replaces']}, the model's is {own}")
    if faults:
        raise CheckpointError(f"{path} does not fit the model: " + "; ".join(faults))


def _rebuilt(told: dict, weight: torch.Tensor) -> StandIn:
    """A factored layer from its description, on the device of ``weight``; values are to follow."""
    kind = KINDS[told["kind"]]
    layer = kind.__new__(kind)
    nn.Module.__init__(layer)
    for key, value in told["notes"].items():
        setattr(layer, key, _as_it_was(value))
    for key, part in told["parts"].items():
        options = {k: _as_it_was(v) for k, v in part["options"].items()}
        place = {"device": weight.device, "dtype": weight.dtype}
        setattr(layer, key, PARTS[part["kind"]](**options, **place))
    for key, shape in told["buffers"].items():
        layer.register_buffer(key, torch.zeros(shape, dtype=torch.long, device=weight.device))
    return layer


def _as_it_was(value):
    """JSON knows neither tuples nor NaN."""
    if isinstance(value, dict):
        return {key: _as_it_was(v) for key, v in value.items()}
    if value is None:
        return math.nan
    return tuple(value) if isinstance(value, list) else value
