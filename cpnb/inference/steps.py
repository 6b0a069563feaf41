"""The steps that a network is made of, one by one: what each kind of layer is read as."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from cpnb.inference.fused.chain import foreign
from cpnb.layers.cp import CPConv2d

POOLS = {
    **{nn.MaxPool2d: "maximum", F.max_pool2d: "maximum", torch.max_pool2d: "maximum"},
    **{nn.AvgPool2d: "mean", F.avg_pool2d: "mean"},
}
SHRINKS = (nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d)


class NotTaken(ValueError):
    """The model does something that there is no step for; the message says what."""


@dataclass(eq=False)
class Step:
    """One layer, with the shortcut that is added to it and the activation behind it.

    Attributes
    ----------
    kind
        "input", "conv", "factored", "linear", "maximum", "mean", "sum", "product", "concat",
        "scale", "activation" or "flatten".
    inputs
        Steps that it reads; the second of a conv or factored layer is added to its result.
    shape
        Of its output, (N, C, H, W) or (N, C).
    weights
        By name: weight and bias; of a factored layer reduce (R, S), vertical (R, d), horizontal
        (R, d), weight (T, R) and bias; scale and shift.
    options
        kernel_size, stride, padding, dilation, pairs each; groups; whole (whether a mean counts
        the padding).
    activation
        None, "relu", "relu6", "silu" or "sigmoid".
    """

    kind: str
    inputs: list[Step]
    shape: tuple[int, ...]
    weights: dict[str, Tensor] = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    activation: str | None = None


def name_of(what) -> str:
    return getattr(what, "__name__", str(what))


def layer_step(module: nn.Module, inputs: list[Step], shape) -> Step:
    if isinstance(module, CPConv2d):
        if reason := foreign(module):
            raise NotTaken(f"of a factored layer: {reason}")
        return _factored(module, inputs, shape)
    if type(module) is nn.Conv2d and module.padding_mode == "zeros":
        weights = {"weight": module.weight.detach(), "bias": _bias(module)}
        options = _options(module) | {"groups": module.groups}
        return Step("conv", inputs, shape, weights, options)
    if type(module) is nn.Linear and len(shape) == 2:
        return Step(
            "linear", inputs, shape, {"weight": module.weight.detach(), "bias": _bias(module)}
        )
    if type(module) is nn.BatchNorm2d and module.running_mean is not None and not module.training:
        scale = (module.running_var.detach().double() + module.eps).rsqrt()
        if module.weight is not None:
            scale = scale * module.weight.detach()
        shift = -module.running_mean.detach() * scale
        if module.bias is not None:
            shift = shift + module.bias.detach()
        return Step("scale", inputs, shape, {"scale": scale.float(), "shift": shift.float()})
    raise NotTaken(f"there is no step for {type(module).__name__}")


def _factored(layer: CPConv2d, inputs: list[Step], shape) -> Step:
    """The layer as four factors, or as a dense one where that takes fewer multiplies."""
    down, across, last = layer.vertical, layer.horizontal, layer.expand
    if last.groups > 1:
        raise NotTaken("a factored layer has groups")
    dense = layer.in_channels * layer.out_channels * math.prod(layer.kernel_size)
    if layer.rank * (layer.in_channels + layer.out_channels) >= dense:
        return layer_step(layer.to_conv(), inputs, shape)
    if down.padding_mode != "zeros" or isinstance(down.padding, str):
        raise NotTaken("a factored layer's padding is not of zeros, or given by a word")
    options = {
        name: (getattr(down, name)[0], getattr(across, name)[1])
        for name in ("kernel_size", "stride", "padding", "dilation")
    }
    weights = {
        "reduce": layer.reduce.weight.detach().flatten(1),
        "vertical": down.weight.detach().flatten(1),
        "horizontal": across.weight.detach().flatten(1),
        "weight": last.weight.detach().flatten(1),
        "bias": _bias(last),
    }
    return Step("factored", inputs, shape, weights, options)


def _bias(module) -> Tensor:
    weight = module.weight
    return weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach()


def _options(module) -> dict:
    if isinstance(module.padding, str):
        raise NotTaken("a padding is given by a word")
    names = ("kernel_size", "stride", "padding", "dilation")
    return {name: _pair(getattr(module, name)) for name in names if hasattr(module, name)}


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def concat_step(node: fx.Node, made: dict, shape) -> Step:
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    inputs = [made.get(one) for one in node.args[0]]
    if axis not in (1, 1 - len(shape)) or None in inputs:
        raise NotTaken("something is put together along another axis than the channels")
    return Step("concat", inputs, shape)


def mean_step(inputs: list[Step], shape) -> Step:
    window = tuple(n // m for n, m in zip(inputs[0].shape[2:], shape[2:], strict=True))
    options = {"kernel_size": window, "stride": window, "padding": (0, 0), "whole": True}
    return Step("mean", inputs, shape, options=options)


def selection_step(node: fx.Node, what, inputs: list[Step], shape) -> Step:
    """Every n-th pixel, or maps of zeros beside the others: a 1x1 convolution by zeros and ones."""
    channels, chosen = inputs[0].shape[1], node.args[1]
    weight, stride = torch.eye(channels), (1, 1)
    if what is F.pad:
        margins = tuple(chosen)
        zeros = node.kwargs.get("mode", "constant") == "constant" and not node.kwargs.get("value")
        if (
            len(node.args) > 2
            or not zeros
            or len(margins) != 6
            or any(margins[:4])
            or min(margins) < 0
        ):
            raise NotTaken("a padding is not of whole maps of zeros")
        weight = F.pad(weight, (0, 0, *margins[4:]))
    else:
        whole = [slice(None)] * 2
        if not isinstance(chosen, tuple) or list(chosen[:2]) != whole or len(chosen) != 4:
            raise NotTaken("parts of maps are taken")
        if any(not isinstance(s, slice) or s.start or s.stop is not None for s in chosen[2:]):
            raise NotTaken("parts of maps are taken")
        stride = tuple(s.step or 1 for s in chosen[2:])
    options = {"kernel_size": (1, 1), "stride": stride, "padding": (0, 0), "dilation": (1, 1)}
    weights = {"weight": weight[:, :, None, None], "bias": torch.zeros(shape[1])}
    before = inputs[0]
    if before.options.get("selects") and stride == (1, 1):  # both in one
        weight = weight @ before.weights["weight"].flatten(1)
        weights["weight"] = weight[:, :, None, None]
        options["stride"], inputs = before.options["stride"], before.inputs
    return Step("conv", inputs, shape, weights, options | {"groups": 1, "selects": True})


def pool_step(node, module, what, inputs, shape) -> Step:
    if what in SHRINKS:
        size = inputs[0].shape[2:]
        if any(n % m for n, m in zip(size, shape[2:], strict=True)):
            raise NotTaken("an adaptive pooling has windows of unlike sizes")
        return mean_step(inputs, shape)
    if module is None:
        kind = {"maximum": nn.MaxPool2d, "mean": nn.AvgPool2d}[POOLS[what]]
        try:
            module = kind(*node.args[1:], **node.kwargs)
        except TypeError as error:
            raise NotTaken(f"{name_of(what)} is called in a way of its own") from error
    up = module.ceil_mode
    if _pair(getattr(module, "dilation", 1)) != (1, 1) or (up and POOLS[type(module)] == "mean"):
        raise NotTaken("a pooling is dilated, or is a mean that rounds its size up")
    if getattr(module, "divisor_override", None) or getattr(module, "return_indices", False):
        raise NotTaken("a pooling divides by a number of its own, or returns indices")
    options = {n: _pair(getattr(module, n)) for n in ("kernel_size", "stride", "padding")}
    options |= {"whole": getattr(module, "count_include_pad", True), "up": up}
    return Step(POOLS[type(module)], inputs, shape, options=options)
