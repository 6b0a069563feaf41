"""Whether the layers behind a fused one are as they were; cheap, for it is asked at every call."""

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual


class Watch:
    """The parts of a module with their weights, buffers and hooks, as they are now.

    A weight that is written into through ``.data``, or that was made in inference mode, keeps no
    count of its changes; such changes are not seen.
    """

    def __init__(self, module: nn.Module):
        parts = list(module.modules())
        self._hooks = [
            hooks for part in parts for hooks in (part._forward_hooks, part._forward_pre_hooks)
        ]
        self._children = [(part._modules, dict(part._modules)) for part in parts if part._modules]
        self._places = [
            (part._parameters, name, weight, _version(weight))
            for part in parts
            for name, weight in part._parameters.items()
        ]
        self._buffers = [
            (part._buffers, name, value, _version(value))
            for part in parts
            for name, value in part._buffers.items()
        ]
        self._weights = [weight for _, _, weight, _ in self._places if weight is not None]
        self._dual = any(unpack_dual(weight).tangent is not None for weight in self._weights)

    def listened(self) -> bool:
        """Whether somebody wants to see what the parts compute."""
        return any(self._hooks)

    def trained(self) -> bool:
        """Whether a derivative by a weight is wanted."""
        wanted = torch.is_grad_enabled() and any(w.requires_grad for w in self._weights)
        return wanted or self._dual

    def changed(self) -> bool:
        """Whether a weight was written into, or a weight or a part replaced."""
        for named, children in self._children:
            if named != children:  # modules are equal if they are the same
                return True
        for named, name, weight, version in (*self._places, *self._buffers):
            if named.get(name) is not weight:
                return True
            if version is not None and weight._version != version:
                return True
        return False


def _version(weight: Tensor | None) -> int | None:
    return None if weight is None or weight.is_inference() else weight._version
