"""Whether an example is what a model can be run on to be counted, measured or optimised."""

import torch
from torch import Tensor, nn

from cpnb.training.evaluation import device_of, evaluation_mode


class _Reached(Exception):
    """The model has come to the first layer that tells."""


def check_pair(name: str, model, example) -> None:
    """Raise unless ``example`` is a batch of inputs on the model's device.

    Raises
    ------
    TypeError
        model is no module, or example no tensor.
    ValueError
        example holds no sample, lies on another device, or lacks the axis of the batch: PyTorch's
        convolutions would take it for a single sample, its first axis for the channels.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name}: model must be an nn.Module, got {type(model).__name__}")
    if not isinstance(example, Tensor):
        raise TypeError(f"{name}: example must be a tensor, got {type(example).__name__}")
    if not example.ndim or not len(example):
        raise ValueError(f"{name}: example must hold a batch, got shape {tuple(example.shape)}")
    if next(model.parameters(), None) is not None and device_of(model) != example.device:
        raise ValueError(
            f"{name}: example is on {example.device}, the model on {device_of(model)}; "
            "move one to the other"
        )
    layer = _takes_one_sample(model, example)
    if layer is not None:
        raise ValueError(
            f"{name}: example must be a batch (N, ...), got shape {tuple(example.shape)}, which "
            f"{layer or type(model).__name__!r} takes for one sample; give example[None]"
        )


def _takes_one_sample(model: nn.Module, example: Tensor) -> str | None:
    """The name of the first layer that gets an input without the axis of a batch.

    The model is run only if the example has fewer axes than one of its layers takes.
    """
    suspects = [(name, part) for name, part in model.named_modules() if _axes(part) > example.ndim]
    found, hooks = [], []

    def tell(name, part, x):
        found.append(name if x.ndim < _axes(part) else None)
        raise _Reached

    for name, part in suspects:
        hooks.append(
            part.register_forward_pre_hook(lambda p, args, name=name: tell(name, p, args[0]))
        )
    try:
        if suspects:
            with evaluation_mode(model), torch.inference_mode():
                model(example.clone())
    except Exception:
        pass  # the caller's own run shows what the model does not take
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _axes(part: nn.Module) -> int:
    """How many axes a batch of inputs has, for layers that take single samples too."""
    if isinstance(part, nn.modules.conv._ConvNd):
        return len(part.kernel_size) + 2
    return 2 if isinstance(part, nn.Linear) else 0
