"""Whether the layers behind a fused one are as they were; cheap, for it is asked at every call."""

import torch
from torch import nn


class Watch:
    """The weights and the hooks of a module's parts, as they are now.

    A weight that is written into through ``.data``, or that was made in inference mode, keeps no
    count of its changes; such changes are not seen.
    """

    def __init__(self, module: nn.Module):
        parts = list(module.modules())
        self._hooks = [
            hooks for part in parts for hooks in (part._forward_hooks, part._forward_pre_hooks)
        ]
        self._weights = [
            (part._parameters, name, weight, None if weight.is_inference() else weight._version)
            for part in parts
            for name, weight in part._parameters.items()
            if weight is not None
        ]

    def listened(self) -> bool:
        """Whether somebody wants to see what the parts compute."""
        return any(self._hooks)

    def trained(self) -> bool:
        """Whether a gradient of a weight is wanted."""
        return torch.is_grad_enabled() and any(w.requires_grad for _, _, w, _ in self._weights)

    def changed(self) -> bool:
        """Whether a weight was written into or replaced."""
        for named, name, weight, version in self._weights:
            if named.get(name) is not weight:
                return True
            if version is not None and weight._version != version:
                return True
        return False
