"""Arithmetic of models: the multiplies that a pass takes, to print beside a measured speed-up.

The ratio of multiplies is what the paper (Lebedev et al., arXiv 1412.6553) counts too.
"""

import math
import warnings
from contextlib import ExitStack, nullcontext

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cpnb.inference.examples import check_pair
from cpnb.training.evaluation import evaluation_mode

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
COUNTED = {*(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)), "linear"}
PRODUCTS = {
    *("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "dot", "inner", "einsum"),
    *(
        "addmm",
        "addmv",
        "addbmm",
        "baddbmm",
        "tensordot",
        "bilinear",
        "scaled_dot_product_attention",
    ),
    *("multi_head_attention_forward", "lstm", "gru", "rnn_tanh", "rnn_relu"),
    *("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
}


def count_multiplies(model: nn.Module, example: Tensor) -> int:
    """Multiplies of one sample's forward pass; see `multiplies_per_layer`."""
    return sum(_counted(model, example).values())


def multiplies_per_layer(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Multiplies of each convolution and fully-connected layer, for one sample.

    Parameters
    ----------
    model : nn.Module
        Run once in evaluation mode.
    example : Tensor
        A batch (N, ...); the count is divided by N.

    Returns
    -------
    dict
        Layer name to d_y * d_x * S / groups multiplies for each of the H' * W' * T outputs, or
        inputs times outputs of a fully-connected layer. Padding counts as data; biases, additions
        and other layers do not count. A layer that runs twice counts twice, under the first of its
        names. What a module computes by ``F.conv2d``, ``F.linear`` or the like counts as its own.

    Raises
    ------
    TypeError
        model or example is none; the model is TorchScript, whose layers cannot be watched.
    ValueError
        example is no batch, or on another device than the model.

    Warns
    -----
    UserWarning
        The model computes other products, as attention and recurrent layers do, which are not
        counted: a ratio of counts would promise more than there is.
    """
    return _counted(model, example)


def _counted(model: nn.Module, example: Tensor) -> dict[str, int]:
    check_pair("model", model, example)
    if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
        raise TypeError(
            "model must be made of Python modules to be counted, got TorchScript; count it before "
            "torch.jit.script or torch.jit.trace"
        )
    tally = _Tally()
    with tally.watching(model), evaluation_mode(model), torch.inference_mode(), _eager(model):
        model(example)
    if tally.others:
        names = ", ".join(
            f"{what} in {repr(name) if name else 'the model'}" for name, what in tally.others
        )
        warnings.warn(
            f"products that are not counted, being of no convolution or linear layer: {names}",
            stacklevel=3,
        )
    return {name: count // len(example) for name, count in tally.counts.items()}


def _eager(model: nn.Module):
    """Compiled parts run as they were written within the block, so that their layers are seen."""
    parts = list(model.modules())
    compiled = any(p._compiled_call_impl is not None or hasattr(p, "_orig_mod") for p in parts)
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


class _Tally(TorchFunctionMode):
    """Counts what layers compute, and what modules compute past them.

    Attributes
    ----------
    counts : dict
        Name of a module to multiplies.
    others : dict
        (Name of a module, name of a function) of what is not counted.
    """

    def __init__(self):
        super().__init__()
        self.counts: dict[str, int] = {}
        self.others: dict[tuple[str, str], None] = {}  # a set, in order
        self._running: list[tuple[str, nn.Module]] = []

    def watching(self, model: nn.Module) -> ExitStack:
        stack = ExitStack()
        for name, module in model.named_modules():
            stack.enter_context(
                module.register_forward_pre_hook(lambda m, _, name=name: self._enter(name, m))
            )
            stack.enter_context(module.register_forward_hook(self._leave, with_kwargs=True))
        stack.enter_context(self)
        return stack

    def _enter(self, name: str, module: nn.Module) -> None:
        self._running.append((name, module))

    def _leave(self, module: nn.Module, inputs, named, output) -> None:
        name, running = self._running.pop()
        while running is not module:  # one that raised what the model caught
            name, running = self._running.pop()
        if isinstance(module, LAYERS):
            x = (*inputs, *named.values())[0]
            self._add(name, x if getattr(module, "transposed", False) else output, module.weight)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        named = kwargs or {}
        output = func(*args, **named)
        what = getattr(func, "__name__", "")
        inside = any(isinstance(module, LAYERS) for _, module in self._running)
        if not inside and what in COUNTED | PRODUCTS:
            name = self._running[-1][0] if self._running else ""
            if what in PRODUCTS:
                self.others[name, what] = None
            else:
                x = args[0] if args else named["input"]
                weight = args[1] if len(args) > 1 else named["weight"]
                self._add(name, x if "transpose" in what else output, weight)
        return output

    def _add(self, name: str, values: Tensor, weight: Tensor) -> None:
        # Each output value of a layer takes one multiply for each weight of its filter; in a
        # transposed convolution it is each input value that meets a whole filter.
        filter_size = math.prod(weight.shape[1:] or weight.shape)
        self.counts[name] = self.counts.get(name, 0) + values.numel() * filter_size
