"""What one layer sees and gives when its model runs."""

import torch
from torch import Tensor, nn


class _Reached(Exception):
    """The forward pass has come to the layer and need not go on."""


def find_part(model: nn.Module, name: str, argument: str) -> nn.Module:
    """The part of that name, or a ValueError that says which ``argument`` lacks it."""
    parts = dict(model.named_modules())
    if not name or name not in parts:
        known = ", ".join(n for n, _ in model.named_children())
        raise ValueError(f"{argument} has no layer {name!r}; its parts are {known}")
    return parts[name]


@torch.no_grad()
def calls_of(model: nn.Module, part: nn.Module, images: Tensor) -> int:
    """How often the part runs when the model does, tried on the first of the images.

    Raises
    ------
    ValueError
        It does not run.
    """
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1

    with part.register_forward_pre_hook(count):
        try:
            model(images[:1])
        except Exception:  # behind the layer: a head may not take images of this size
            if not calls:
                raise
    if not calls:
        raise ValueError("the layer takes no part in the model's forward pass")
    return calls


@torch.no_grad()
def seen(
    model: nn.Module, part: nn.Module, images: Tensor, calls: int = 1, hooked: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """Input and output of a part at each of its calls; what comes after them is not computed.

    With ``calls=0`` the model runs to its end. They are those of its ``forward``, or, where
    ``hooked``, those that the model sees: before and after what hooks on the part make of them.
    """
    inputs, found = [], []

    def enter(module, args, named):
        inputs.append(args[0] if args else next(iter(named.values())))

    def leave(module, args, output):
        found.append((inputs[-1], output))
        if len(found) == calls:
            raise _Reached

    with (
        part.register_forward_pre_hook(enter, prepend=hooked, with_kwargs=True),
        part.register_forward_hook(leave, prepend=not hooked),
    ):
        try:
            model(images)
        except _Reached:
            return found
    if not found:
        raise ValueError("the layer takes no part in the model's forward pass")
    return found
