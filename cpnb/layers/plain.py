"""Which layers can be factored: those that compute what their weights and options alone say.

A factored layer knows the kernel, the bias and the options of the layer that it stands for, and
nothing else. What a subclass adds in its `forward`, or a hook that sets the weight just before it,
would be lost without a word: such layers are refused, with what to do instead.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

SPATIAL = ("stride", "padding", "dilation", "padding_mode")
OPTIONS = {
    nn.Conv2d: ("in_channels", "out_channels", "kernel_size", "groups", *SPATIAL),
    nn.Linear: ("in_features", "out_features"),
}
COMPUTES = ("__call__", "_call_impl", "forward", "_conv_forward")  # a subclass may change any
REMOVERS = {
    WeightNorm: "torch.nn.utils.remove_weight_norm",
    SpectralNorm: "torch.nn.utils.remove_spectral_norm",
    BasePruningMethod: "torch.nn.utils.prune.remove",
}


def plain(layer, kind: type = nn.Conv2d, name: str = "conv") -> nn.Module:
    """The layer, or, where its weights are parametrized, a plain one with the weights it uses.

    Parameters
    ----------
    layer : nn.Module
        Left as it is: parametrizations are read in evaluation mode, in which they keep their state.
    kind : {nn.Conv2d, nn.Linear}
    name : str
        What errors call the layer.

    Raises
    ------
    TypeError
        It is of another kind; it is factored already; it has no weights yet; it computes something
        else than ``kind`` does; its weights are set by a hook.
    ValueError
        Its weights and its options contradict each other.
    """
    _check_kind(layer, kind, name)
    check_hooks(layer, name)
    dense = layer if _ordinary(layer, kind) else _rebuilt(layer, kind, name)
    _check_options(layer, dense, kind, name)
    return dense


def _check_kind(layer, kind: type, name: str) -> None:
    for back in ("to_conv", "to_linear"):
        if hasattr(layer, back):
            raise TypeError(
                f"{name} is already a {type(layer).__name__}; use its {back}() to decompose it anew"
            )
    own = f"nn.{kind.__name__}"
    if not isinstance(layer, kind):
        raise TypeError(f"{name} must be an {own}, got {type_name(layer)}")
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        raise TypeError(
            f"{name} must have weights, got {type_name(layer)}, which has none before the model "
            "has run once: run it on an example"
        )
    changed = [
        what
        for what in COMPUTES
        if getattr(type(layer), what, None) is not getattr(kind, what, None) or what in vars(layer)
    ]
    if changed:
        raise TypeError(
            f"{name} must compute as {own} does, got {type_name(layer)} with a {changed[-1]} of "
            "its own, of which the factors would know nothing; put a plain "
            f"{own} in its place that computes the same (what is done to weights or padding "
            "folded into it), or leave the layer out"
        )


def type_name(layer) -> str:
    """The name of its type; in full but for PyTorch's own layers, as other packages reuse names."""
    kind = type(layer)
    known = kind.__module__.startswith("torch.nn.modules.") or kind.__module__ == "builtins"
    return kind.__name__ if known else f"{kind.__module__}.{kind.__qualname__}"


def check_hooks(layer: nn.Module, name: str) -> None:
    """Raise a TypeError if a hook sets the layer's weights each time before it runs.

    What stands in ``layer.weight`` between two runs is then that of the last run, or stale.
    """
    remover = hook_remover(layer)
    if remover:
        raise TypeError(
            f"{name} must have weights of its own, got weights that a hook computes before each "
            f"forward pass; call {remover} on it first"
        )
    loose = [key for key in ("weight", "bias") if key in vars(layer)]
    if loose:
        raise TypeError(
            f"{name} must have weights of its own, got a {loose[0]} that is no parameter but set "
            f"from outside, as hooks do before each forward pass; make it an nn.Parameter first"
        )


def hook_remover(layer: nn.Module) -> str | None:
    """The function of PyTorch's that ends the computing of this layer's weights by a hook."""
    for hook in layer._forward_pre_hooks.values():
        for kind, remover in REMOVERS.items():
            if isinstance(hook, kind):
                return remover
    return None


def weight_of(part: nn.Module) -> Tensor:
    """The weights that a part of a factored layer uses, now."""
    check_hooks(part, f"this {type(part).__name__} of a factored layer")
    return part.weight


def own_weight(part: nn.Module) -> nn.Parameter:
    """The weights of a part of a factored layer, to be written into."""
    weight = weight_of(part)
    if weight is not part._parameters.get("weight"):
        raise TypeError(
            "the parts of a factored layer must have weights of their own to be fitted, got a "
            f"parametrized {type(part).__name__}; call "
            "torch.nn.utils.parametrize.remove_parametrizations first"
        )
    return weight


def _ordinary(layer: nn.Module, kind: type) -> bool:
    """Whether weights and options are what ``kind`` itself makes of them."""
    pairs = ("kernel_size", *SPATIAL) if kind is nn.Conv2d else ()
    return (
        all(key in layer._parameters for key in ("weight", "bias"))
        and all(isinstance(getattr(layer, key), (tuple, str)) for key in pairs)
        and not hasattr(type(layer), "weight")
    )


@torch.no_grad()
def _rebuilt(layer: nn.Module, kind: type, name: str) -> nn.Module:
    """A plain layer with the weights that this one computes when they are asked for."""
    with evaluating(layer):
        (weight, bias), (again, _) = ((layer.weight, layer.bias) for _ in range(2))
    if not torch.allclose(weight, again, rtol=0, atol=0, equal_nan=True):
        raise TypeError(f"{name} must have one weight, got another each time that it is read")
    options = {key: getattr(layer, key) for key in OPTIONS[kind]}
    dense = kind(**options, bias=bias is not None, device="meta")
    trained = dict.fromkeys(("weight", "bias"), False)
    for key, parameter in layer.named_parameters():
        trained["bias" if "bias" in key else "weight"] |= parameter.requires_grad
    dense.weight = nn.Parameter(weight.detach().clone(), trained["weight"])
    if bias is not None:
        dense.bias = nn.Parameter(bias.detach().clone(), trained["bias"])
    return dense.train(layer.training)


def _check_options(layer: nn.Module, dense: nn.Module, kind: type, name: str) -> None:
    """Weights may be cut, and options be set, without the others that they go with."""
    weight = dense.weight
    if weight.is_meta or not weight.is_floating_point():
        raise TypeError(
            f"{name} must have real floating-point weights in memory, got {weight.dtype} on "
            f"{weight.device}"
        )
    told = kind(**{key: getattr(dense, key) for key in OPTIONS[kind]}, device="meta")
    if weight.shape != told.weight.shape:
        raise ValueError(
            f"{name} has weights of shape {tuple(weight.shape)}, but its {', '.join(OPTIONS[kind])}"
            f" speak of {tuple(told.weight.shape)}: set them to what the weights are"
        )
    if kind is nn.Conv2d and dense.padding_mode != "zeros":
        used, due = (list(c._reversed_padding_repeated_twice) for c in (layer, told))
        if used != due:
            raise ValueError(
                f"{name} pads by {used} in mode {dense.padding_mode!r}, but its padding "
                f"{dense.padding} speaks of {due}: make it anew, since padding was set after it "
                "was made"
            )


@contextmanager
def evaluating(module: nn.Module):
    """The module in evaluation mode within the block; each part's own mode is restored after it."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training
