"""A network as a list of steps, each a layer with all that belongs to it.

Traced by torch.fx, and simplified as every runtime does it: batch normalisation goes into the
weights before it, an activation and the addition of a shortcut into the layer before them.
"""

from __future__ import annotations

import math
import operator

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from cpnb.inference.steps import (
    POOLS,
    SHRINKS,
    NotTaken,
    Step,
    concat_step,
    layer_step,
    mean_step,
    name_of,
    pool_step,
    selection_step,
)
from cpnb.layers.cp import CPConv2d

NO_EFFECT = (nn.Identity, nn.Dropout, nn.Dropout2d)
STOCHASTIC_DEPTH = "torchvision.ops.stochastic_depth.StochasticDepth"
ACTIVATIONS = {
    **{nn.ReLU: "relu", F.relu: "relu", torch.relu: "relu", "relu": "relu", "relu_": "relu"},
    **{nn.ReLU6: "relu6", F.relu6: "relu6", nn.SiLU: "silu", F.silu: "silu", F.relu_: "relu"},
    **{nn.Sigmoid: "sigmoid", torch.sigmoid: "sigmoid", F.sigmoid: "sigmoid"},
}
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
FLATTENS = (nn.Flatten, torch.flatten, "flatten", "view", "reshape")
WEIGHTED = ("conv", "factored", "linear")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        whole = isinstance(module, CPConv2d) or _has_no_effect(module)
        return whole or super().is_leaf_module(module, name)


def _has_no_effect(module) -> bool:
    """In evaluation mode. Torchvision's is told by its name, as to import it takes seconds."""
    kind = type(module)
    return kind in NO_EFFECT or f"{kind.__module__}.{kind.__name__}" == STOCHASTIC_DEPTH


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
        for new in [*step.inputs, step] if step else []:
            if new not in steps:
                steps.append(new)
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
        if any(step and step.kind == "input" for step in made.values()):
            raise NotTaken("it has several inputs")
        return Step("input", [], shape)
    if shape is None:
        return None
    module = traced.get_submodule(node.target) if node.op == "call_module" else None
    what = type(module) if module is not None else node.target
    inputs = [made.get(arg) for arg in node.args if isinstance(arg, fx.Node)]
    inputs = [step for step in inputs if step is not None]
    if (
        what in SUMS
        and len(inputs) == 2
        and not node.kwargs
        and inputs[0].shape == inputs[1].shape == shape
    ):
        return Step("sum", inputs, shape)
    if what in PRODUCTS and len(inputs) == 2 and not node.kwargs:
        return Step("product", inputs, shape)
    if what is torch.cat:
        return concat_step(node, made, shape)
    if len(inputs) != 1 or len(shape) not in (2, 4):
        raise NotTaken(f"there is no step for {name_of(what)}")
    if _has_no_effect(module) or what in (F.dropout, F.dropout2d):
        return inputs[0]
    if what in ACTIVATIONS:
        return Step("activation", inputs, shape, activation=ACTIVATIONS[what])
    before = inputs[0].shape
    if what in FLATTENS and shape == (before[0], math.prod(before[1:])):
        return Step("flatten", inputs, shape)
    if what in ("mean", torch.mean) and shape == before[:2] and _over_maps(node):
        return Step("flatten", [mean_step(inputs, (*shape, 1, 1))], shape)
    if what in (operator.getitem, F.pad) and len(shape) == len(before) == 4:
        return selection_step(node, what, inputs, shape)
    if what in POOLS or what in SHRINKS:
        return pool_step(node, module, what, inputs, shape)
    if module is not None and len(shape) == len(inputs[0].shape):
        return layer_step(module, inputs, shape)
    raise NotTaken(f"there is no step for {name_of(what)}")


def _over_maps(node: fx.Node) -> bool:
    axes = node.args[1] if len(node.args) == 2 else node.kwargs.get("dim")
    return isinstance(axes, (list, tuple)) and sorted(axes) in ([2, 3], [-2, -1])


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
