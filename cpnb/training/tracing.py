"""The graph of a network by torch.fx, with factored layers as single nodes."""

from __future__ import annotations

from torch import fx, nn

from cpnb.layers.stand_in import StandIn


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        return isinstance(module, StandIn) or super().is_leaf_module(module, name)


def traced(model: nn.Module) -> fx.Graph | None:
    """The model's graph as it now is, in training or in evaluation mode.

    None where it cannot be traced, or has hooks or replaced methods, which a graph would not tell.
    """
    if any(map(_changed, model.modules())):
        return None
    try:
        return _Tracer().trace(model)
    except Exception:  # whatever the model does with a tensor that is none
        return None


def _changed(part: nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks) or "forward" in vars(part)
