"""What a compressed layer should give for the network behind it, not for itself alone.

Two things are known of what follows a layer, where the model can be traced. A residual sum adds the
errors of the blocks before, which the layer can make up for (He, Zhang and Sun, 2017, section 3.3,
of pruned channels); and a ReLU makes one of all that is negative, so where both networks are there,
nothing is to be mended (Zhang et al., 2016, section 3.3).
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from cpnb.training.seen import calls_of, seen
from cpnb.training.tracing import traced

SUMS = (operator.add, torch.add, "add")  # not in place: the layer's output is looked at after
RECTIFIERS = (F.relu, F.relu_, F.relu6, torch.relu, torch.relu_, "relu", "relu_")
SMALLEST = 1e-2  # of the largest scale: a map that the norm shuts off has no say


class Target:
    """What a layer of ``model`` should give, for the sum that it enters and the ReLU behind.

    Where nothing is known of what follows, the layer's output in ``reference``.

    Parameters
    ----------
    model, reference : nn.Module
        The network as far as it is approximated, and the full one.
    layer : str
    downstream : bool
        Whether what follows the layer counts at all.
    """

    def __init__(self, model: nn.Module, reference: nn.Module, layer: str, downstream: bool = True):
        self._parts = [m.get_submodule(layer) for m in (model, reference)]
        self._models, self._calls = (model, reference), None
        asked = downstream and model is not reference  # one and the same lacks nothing
        self._ends = [_End.of(m, layer) if asked else None for m in self._models]

    def pairs(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The layer's input in ``model`` and what it should give, at each of its calls."""
        if None in self._ends:
            return self._outputs(images)
        (x, now, have), (_, full, want) = (end.run(images) for end in self._ends)
        if not now.shape == full.shape == have.shape == want.shape:
            return [(x, full)]
        if self._ends[1].rectified:
            want = torch.where(want > 0, want, have.clamp_max(0))
        return [(x, now + (want - have) / self._ends[1].scale)]

    def _outputs(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        (model, reference), (part, full) = self._models, self._parts
        self._calls = self._calls or calls_of(model, part, images)
        student = seen(model, part, images, self._calls)
        if model is reference:
            return student
        teacher = seen(reference, full, images, self._calls)
        return [(x, z) for (x, _), (_, z) in zip(student, teacher, strict=True)]


class _End:
    """The last value before a ReLU that a layer's output enters linearly."""

    def __init__(self, path: fx.GraphModule, part: nn.Module, norm, rectified: bool):
        self.path, self.part, self.rectified = path, part, rectified
        self.scale = 1.0 if norm is None else _scale(norm)  # of the layer's output in it

    def run(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The layer's input and output, and the value at the end, by one pass."""
        value = []
        ((x, z),) = seen(lambda batch: value.append(self.path(batch)), self.part, images, calls=0)
        return x, z, value[0]

    @classmethod
    def of(cls, model: nn.Module, layer: str) -> _End | None:
        graph = traced(model)
        if graph is None:
            return None
        found = [node for node in graph.nodes if node.op == "call_module" and node.target == layer]
        if len(found) != 1:
            return None
        (node,), norm, summed = found, None, False
        while len(node.users) == 1:
            (user,) = node.users
            part = model.get_submodule(user.target) if user.op == "call_module" else None
            if _is_norm(part) and norm is None and not summed:
                norm = part
            elif _is_sum(user) and not summed:
                summed = True
            else:
                break
            node = user
        rectified = bool(node.users) and all(_rectifies(model, user) for user in node.users)
        return cls(_up_to(model, graph, node), model.get_submodule(layer), norm, rectified)


def _is_norm(part: nn.Module | None) -> bool:
    return isinstance(part, nn.BatchNorm2d) and part.running_var is not None


def _is_sum(node: fx.Node) -> bool:
    named = node.op in ("call_function", "call_method") and node.target in SUMS
    return named and len(node.all_input_nodes) == 2 and not node.kwargs  # no factor `alpha`


def _rectifies(model: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(model.get_submodule(node.target), (nn.ReLU, nn.ReLU6))
    return node.op in ("call_function", "call_method") and node.target in RECTIFIERS


def _scale(norm: nn.BatchNorm2d) -> Tensor:
    scale = torch.rsqrt(norm.running_var + norm.eps) * (1 if norm.weight is None else norm.weight)
    small = scale.abs() <= SMALLEST * scale.abs().max()
    return torch.where(small, torch.inf, scale)[:, None, None].detach()


def _up_to(model: nn.Module, graph: fx.Graph, last: fx.Node) -> fx.GraphModule:
    copy, copies = fx.Graph(), {}
    for node in graph.nodes:
        copies[node] = copy.node_copy(node, copies.__getitem__)
        if node is last:
            break
    copy.output(copies[last])
    path = fx.GraphModule(model, copy)
    path.graph.eliminate_dead_code()
    path.recompile()
    return path
