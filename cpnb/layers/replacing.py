"""A factored layer takes the place of a layer in a model: everywhere, and with its hooks.

The layer itself becomes the factored one, as PyTorch's lazy layers become what they are: whatever
holds it (other names, lists, bound methods) then holds the factored layer.
"""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict

from torch import nn

from cpnb.layers.copies import held_things
from cpnb.layers.stand_in import StandIn

# Hooks that see inputs, outputs and their gradients; these are the factored layer's too.
MOVED = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks",
    "_backward_pre_hooks", "_is_full_backward_hook",
)  # fmt: skip
# Those that see the names of its weights, which a factored layer has others of.
DROPPED = (
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)  # fmt: skip


def become(layer: nn.Module, factored: StandIn, name: str) -> None:
    """Turn ``layer`` into ``factored``, with its hooks.

    Warns
    -----
    UserWarning
        Hooks or parametrizations have no meaning for the factored layer; they are named.
    """
    state = vars(layer)
    hooks = {key: state[key] for key in MOVED}
    lost = [key for key in DROPPED if state.get(key)]
    if state["_backward_hooks"] and not state["_is_full_backward_hook"]:
        # What they are given depends on how the layer is computed.
        lost.append("_backward_hooks (not full)")
        hooks |= {"_backward_hooks": OrderedDict(), "_is_full_backward_hook": None}
    lost += [f"parametrizations.{key}" for key in getattr(layer, "parametrizations", ())]
    if lost:
        warnings.warn(
            f"layer {name!r}: {', '.join(lost)} cannot move along to a {type(factored).__name__}",
            stacklevel=3,
        )
    layer.__class__ = type(factored)
    state.clear()
    state.update(vars(factored) | hooks)


def warn_of_ties(model: nn.Module, names) -> None:
    """Warn of weights that the layers share with others: factors are trained by themselves."""
    layers = {name: model.get_submodule(name) for name in names}
    own = {id(p): (name, key) for name, m in layers.items() for key, p in m.named_parameters()}
    holders = [
        (f"{path}.{key}".lstrip("."), parameter, part)
        for path, part in model.named_modules()
        for key, parameter in part._parameters.items()
    ]
    holders += [(path, leaf, None) for path, leaf, _ in held_things(model)]
    for path, thing, part in holders:
        name, key = own.get(id(thing), (None, None))
        if name is not None and part not in set(layers[name].modules()):
            warnings.warn(
                f"layer {name!r} shares its {key} with {path!r}, which will not follow the factors "
                "when they are trained",
                stacklevel=3,
            )


def leave_shortcuts(model: nn.Module) -> None:
    """PyTorch's transformer encoders go the way that calls their factored layers.

    In evaluation they else read the weights of their linear layers, and call none of them.
    """
    for part in model.modules():
        if isinstance(part, nn.TransformerEncoderLayer) and _factored(part):
            part.activation_relu_or_gelu = 0  # "another activation", which has no such shortcut


def _factored(part: nn.Module) -> bool:
    return any(isinstance(getattr(part, key, None), StandIn) for key in ("linear1", "linear2"))


def warn_of_cost(dense: nn.Module, factored: nn.Module, name: str) -> None:
    """Warn if the factored layer takes more multiplies than the dense one."""
    before, after = multiplies(dense), multiplies(factored)
    if after > before:
        rank = getattr(factored, "ranks", factored.rank)
        warnings.warn(
            f"layer {name!r} at rank {rank} takes {after:,} multiplies an output position, more "
            f"than the {before:,} of the layer it replaces; a lower rank makes it cheaper",
            stacklevel=3,
        )


def multiplies(layer: nn.Module) -> int:
    """Multiplies for each output position, the maps' edges apart.

    Parts before a stride run at more positions than there are at the end.
    """
    count, positions = 0, 1
    for part in reversed(list(layer.children()) or [layer]):
        count += positions * part.weight.numel()
        positions *= math.prod(getattr(part, "stride", (1,)))
    return count
