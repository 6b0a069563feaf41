"""A network as a list of steps, each a layer with all that belongs to it.

Traced by torch.fx, and simplified as every runtime does it: batch normalisation goes into the
weights before it, an activation and the addition of a shortcut into the layer before them.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from cpnb.inference.fused.chain import foreign
from cpnb.layers.cp import CPConv2d

NO_EFFECT = (nn.Identity, nn.Dropout, nn.Dropout2d, StochasticDepth)  # in evaluation mode
ACTIVATIONS = {
    **{nn.ReLU: "relu", F.relu: "relu", torch.relu: "relu", "relu": "relu", "relu_": "relu"},
    **{nn.ReLU6: "relu6", F.relu6: "relu6", nn.SiLU: "silu", F.silu: "silu", F.relu_: "relu"},
    **{nn.Sigmoid: "sigmoid", torch.sigmoid: "sigmoid", F.sigmoid: "sigmoid"},
}
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
FLATTENS = (nn.Flatten, torch.flatten, "flatten", "view", "reshape")
POOLS = {
    **{nn.MaxPool2d: "maximum", F.max_pool2d: "maximum", torch.max_pool2d: "maximum"},
    **{nn.AvgPool2d: "mean", F.avg_pool2d: "mean"},
}
SHRINKS = (nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d)
WEIGHTED = ("conv", "factored", "linear")


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


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        return isinstance(module, (CPConv2d, StochasticDepth)) or super().is_leaf_module(module, name)


def steps_of(model: nn.Module, example: Tensor) -> list[Step]:
    """The model's steps on such an example, in an order in which they can be run.

    Raises
    ------
    NotTaken
        It branches on its input, keeps something from call to call, or has a layer that there is no
        step for.
    """
    for name, part in model.named_modules():
        if reason := _unlike_its_type(part):
            raise NotTaken(f"of {name or type(part).__name__}: {reason}")
    before = {name: _kept(part) for name, part in model.named_modules()}
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # whatever the model does with a tensor that is none
        raise NotTaken(f"it cannot be traced: {str(error).splitlines()[0][:120]}") from error
    for name, part in model.named_modules():
        if _kept(part) != before[name]:
            raise NotTaken(f"{name or type(part).__name__} keeps something from call to call")
    traced = fx.GraphModule(model, graph)
    ShapeProp(traced).propagate(example)
    return _simplified(_read(traced))


def _unlike_its_type(part: nn.Module) -> str | None:
    if part._forward_hooks or part._forward_pre_hooks:
        return "it has hooks"
    if "forward" in vars(part):
        return "its forward was replaced"
    loose = [name for name in ("weight", "bias") if name in vars(part)]
    return f"its {loose[0]} is no parameter, but set from outside" if loose else None


def _kept(part: nn.Module) -> dict:
    """What a call could change: which values a module has, and how much is in its containers."""
    values = vars(part) | part._buffers | part._parameters
    sizes = {k: len(v) for k, v in values.items() if isinstance(v, (list, dict, set))}
    return {name: (id(value), sizes.get(name)) for name, value in values.items()}


def _read(traced: fx.GraphModule) -> list[Step]:
    made, steps = {}, []
    for node in traced.graph.nodes:
        if node.op == "output":
            return [*steps, made[_only_output(node, made)]]
        step = _step(node, traced, made)
        made[node] = step
        if step is not None and step not in steps:
            steps.append(step)
    raise NotTaken("it has no output")


def _only_output(node: fx.Node, made: dict) -> fx.Node:
    output = node.args[0]
    if not isinstance(output, fx.Node) or made.get(output) is None:
        raise NotTaken("its output is not one tensor")
    return output


def _step(node: fx.Node, traced: fx.GraphModule, made: dict) -> Step | None:
    """The node's step; None of one that is no tensor, such as a size."""
    meta = node.meta.get("tensor_meta")
    shape = tuple(meta.shape) if hasattr(meta, "shape") else None
    if node.op == "placeholder":
        if any(step.kind == "input" for step in made.values()):
            raise NotTaken("it has several inputs")
        return Step("input", [], shape)
    if shape is None:
        return None
    module = traced.get_submodule(node.target) if node.op == "call_module" else None
    what = type(module) if module is not None else node.target
    inputs = [made.get(arg) for arg in node.args if isinstance(arg, fx.Node)]
    inputs = [step for step in inputs if step is not None]
    if what in SUMS and len(inputs) == 2 and not node.kwargs and inputs[0].shape == inputs[1].shape == shape:
        return Step("sum", inputs, shape)
    if what in PRODUCTS and len(inputs) == 2 and not node.kwargs:
        return Step("product", inputs, shape)
    if what is torch.cat:
        return _concat(node, made, shape)
    if len(inputs) != 1 or len(shape) not in (2, 4):
        raise NotTaken(f"there is no step for {_name(what)}")
    if type(module) in NO_EFFECT or what in (F.dropout, F.dropout2d):
        return inputs[0]
    if what in ACTIVATIONS:
        return Step("activation", inputs, shape, activation=ACTIVATIONS[what])
    before = inputs[0].shape
    if what in FLATTENS and shape == (before[0], math.prod(before[1:])):
        return Step("flatten", inputs, shape)
    if what in POOLS or what in SHRINKS:
        return _pool(node, module, what, inputs, shape)
    if module is not None and len(shape) == len(inputs[0].shape):
        return _layer(module, inputs, shape)
    raise NotTaken(f"there is no step for {_name(what)}")


def _name(what) -> str:
    return getattr(what, "__name__", str(what))


def _layer(module: nn.Module, inputs: list[Step], shape) -> Step:
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
        return _layer(layer.to_conv(), inputs, shape)
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


def _concat(node: fx.Node, made: dict, shape) -> Step:
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    inputs = [made.get(one) for one in node.args[0]]
    if axis not in (1, 1 - len(shape)) or None in inputs:
        raise NotTaken("something is put together along another axis than the channels")
    return Step("concat", inputs, shape)


def _pool(node, module, what, inputs, shape) -> Step:
    if what in SHRINKS:
        size = inputs[0].shape[2:]
        if any(n % m for n, m in zip(size, shape[2:], strict=True)):
            raise NotTaken("an adaptive pooling has windows of unlike sizes")
        window = tuple(n // m for n, m in zip(size, shape[2:], strict=True))
        options = {"kernel_size": window, "stride": window, "padding": (0, 0), "whole": True}
        return Step("mean", inputs, shape, options=options)
    if module is None:
        kind = {"maximum": nn.MaxPool2d, "mean": nn.AvgPool2d}[POOLS[what]]
        try:
            module = kind(*node.args[1:], **node.kwargs)
        except TypeError as error:
            raise NotTaken(f"{_name(what)} is called in a way of its own") from error
    up = module.ceil_mode
    if _pair(getattr(module, "dilation", 1)) != (1, 1) or (up and POOLS[type(module)] == "mean"):
        raise NotTaken("a pooling is dilated, or is a mean that rounds its size up")
    if getattr(module, "divisor_override", None) or getattr(module, "return_indices", False):
        raise NotTaken("a pooling divides by a number of its own, or returns indices")
    options = {n: _pair(getattr(module, n)) for n in ("kernel_size", "stride", "padding")}
    options |= {"whole": getattr(module, "count_include_pad", True), "up": up}
    return Step(POOLS[type(module)], inputs, shape, options=options)


def _simplified(read: list[Step]) -> list[Step]:
    """The steps with what can be drawn into others; the last one is the output's."""
    output = read[-1]
    steps = _needed(read[:-1], output)
    for draw in (_draw_scale, _draw_sum, _draw_activation):
        for step in list(steps):
            readers = [other for other in steps for one in other.inputs if one is step]
            if step is output or len(readers) != 1 or step.activation:
                continue
            reader = readers[0]
            if draw(step, reader, steps):
                steps.remove(reader)
                for other in steps:
                    other.inputs = [step if one is reader else one for one in other.inputs]
                output = step if output is reader else output
    return [*(step for step in steps if step is not output), output]


def _needed(steps: list[Step], output: Step) -> list[Step]:
    needed = {output}
    for step in reversed(steps):
        needed.update(step.inputs if step in needed else [])
    return [step for step in steps if step in needed or step.kind == "input"]


def _draw_scale(step: Step, reader: Step, steps: list[Step]) -> bool:
    if reader.kind != "scale" or step.kind not in WEIGHTED:
        return False
    scale, weight = reader.weights["scale"], step.weights["weight"]
    step.weights["weight"] = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    step.weights["bias"] = step.weights["bias"] * scale + reader.weights["shift"]
    return True


def _draw_sum(step: Step, reader: Step, steps: list[Step]) -> bool:
    if reader.kind != "sum" or step.kind not in ("conv", "factored") or len(step.inputs) > 1:
        return False
    other = next(one for one in reader.inputs if one is not step)
    if steps.index(other) > steps.index(step):
        return False  # it will draw this one in
    step.inputs.append(other)
    return True


def _draw_activation(step: Step, reader: Step, steps: list[Step]) -> bool:
    if reader.kind != "activation" or step.kind not in (*WEIGHTED, "sum", "scale", "mean"):
        return False
    step.activation = reader.activation
    return True
