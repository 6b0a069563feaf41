"""What a network adds to a layer's output: the other side of a residual sum.

A block's layers see the errors of the blocks before it in their inputs alone; in the sum they meet
them again, by way of the shortcut. Its last layer can take back a part of those too (He, Zhang and
Sun, 2017, section 3.3, of pruned channels): it is fitted to give what the whole sum lacks.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn

from cpnb.layers.stand_in import StandIn

SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
SMALLEST = 1e-2  # of the largest scale: a map that the norm shuts off has no say in the sum


class Lack:
    """What the sums behind a layer lack in ``model``, in units of the layer's output.

    Parameters
    ----------
    model, reference : nn.Module
        The network as far as it is approximated, and the full one.
    layer : str
        Its output, normalised or not, is added to something; else there is nothing to make up for.
    """

    def __init__(self, model: nn.Module, reference: nn.Module, layer: str):
        sides = [] if model is reference else [_beside(m, layer) for m in (model, reference)]
        self._paths = None if None in sides or not sides else [path for path, _ in sides]
        self._scale = _scale(sides[1][1]) if self._paths else None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor | float:
        """(N, T, H, W), or 0 where nothing is added."""
        if self._paths is None:
            return 0.0
        now, full = (path(images) for path in self._paths)
        if now.shape != full.shape or now.ndim != 4:
            return 0.0
        return (full - now) / self._scale if self._scale is not None else full - now


def _scale(norm: nn.Module | None) -> Tensor | None:
    if norm is None:
        return None
    scale = torch.rsqrt(norm.running_var + norm.eps) * (1 if norm.weight is None else norm.weight)
    small = scale.abs() < SMALLEST * scale.abs().max()
    return torch.where(small, torch.inf, scale)[:, None, None].detach()


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        return isinstance(module, StandIn) or super().is_leaf_module(module, name)


def _beside(model: nn.Module, layer: str) -> tuple[fx.GraphModule, nn.Module | None] | None:
    """The model up to what is added to the layer's output, and the norm between; or None."""
    try:
        graph = _Tracer().trace(model)
    except Exception:  # whatever the model does with a tensor that is none: no sum is known
        return None
    found = [node for node in graph.nodes if node.op == "call_module" and node.target == layer]
    if len(found) != 1:
        return None
    (node,), norm = found, None
    while len(node.users) == 1:
        (user,) = node.users
        if _is_sum(user):
            (other,) = set(user.all_input_nodes) - {node}
            return _up_to(model, graph, other), norm
        part = model.get_submodule(user.target) if user.op == "call_module" else None
        if not isinstance(part, NORMS) or norm is not None:
            return None
        node, norm = user, part
    return None


def _is_sum(node: fx.Node) -> bool:
    named = node.op in ("call_function", "call_method") and node.target in SUMS
    return named and len(node.all_input_nodes) == 2 and not node.kwargs  # no factor `alpha`


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
