"""Fewer multiplies made faster: a factored model prepared for inference.

The arithmetic that CP saves (Lebedev et al., arXiv 1412.6553, eq. 5) is soon lost to memory: four
small convolutions write and read their maps where one did. Here each convolution is fused with
what follows it, and the fastest way to compute it is found by measuring, the dense one included.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections import defaultdict
from itertools import pairwise

import torch
from torch import Tensor, nn

from cpnb.inference.chains import find_chains, own_parts
from cpnb.inference.contest import rivals, run_as_a_whole
from cpnb.inference.examples import check_pair
from cpnb.inference.fused.choice import Report, fastest
from cpnb.inference.whole import Whole
from cpnb.layers.copies import copied
from cpnb.layers.cp import CPConv2d
from cpnb.layers.factored import FactoredConv2d
from cpnb.runs.progress import progress_bar


def optimize_for_inference(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy of the model that computes the same outputs faster.

    The network as a whole goes to whatever is the fastest for it on this machine: its layers one
    after the other, optimised as told below; the compiled kernels with all steps in one call; ONNX
    Runtime or OpenVINO, where they are installed (extra `runtimes`).

    Each factored layer, and each dense convolution in an ``nn.Sequential``, is measured on the
    input it gets from `example`, with PyTorch's present number of threads: dense, factored, fused
    in plain PyTorch, and fused by a kernel that is compiled at first use, in C++ for the CPU and
    by Triton for a GPU. The fastest takes its place. In an ``nn.Sequential`` it takes in the
    maxout, ReLU and 1x1 convolutions behind it, if on `example` the one's output is the other's
    input, and nothing else reads it. Of the rivals' layers each convolution is measured for itself.
    Layers that compute more than their types and weights tell (subclasses, hooks, parametrized
    weights) stay as they are; the report says why.

    What was measured is kept in the user's cache folder and taken over the next time. If the
    machine was busy then, set CPNB_REMEMBER=0 in the environment, or delete the folder's
    ``measurements.json``.

    Parameters
    ----------
    model : nn.Module
        With `CPConv2d` or rivals' layers, as `cpnb.decompose` makes them. Left untouched.
    example : Tensor
        A batch (N, S, H, W) of the size to be fast on. Other sizes work too.

    Returns
    -------
    nn.Module
        In evaluation mode, without gradients of its parameters, the outputs those of the model up
        to rounding, its convolutions' maps in channels_last. It may be called from several threads.
        Its attribute `report` tells what was measured and chosen. A runtime that was chosen for the
        network as a whole runs input of the example's shape on as many threads; other input goes
        through the layers. Exported, traced or under ``torch.compile`` it is the layers one by one,
        as it is where a gradient is wanted. Kernels hold copies of the weights, and follow their
        changes (see `fused.module.FusedConv`).

    Raises
    ------
    TypeError
        model is no ``nn.Module``, example no tensor, or the model cannot be copied.
    ValueError
        example is on another device than the model, is no batch, or has a shape that the model does
        not take.

    Warns
    -----
    UserWarning
        There is no factored layer, or none that is not optimised already, or the outputs would
        differ by more than rounding: a copy that is not optimised any further is returned. Or there
        is no compiled kernel to be had.
    """
    check_pair("optimize_for_inference", model, example)
    fast = copied(model).eval().requires_grad_(False)
    whole = vars(model).get("forward")
    if isinstance(whole, Whole):
        fast.forward = whole.of(fast) or whole
    parts = [part for _, part in own_parts(fast)]
    if not any(isinstance(part, (CPConv2d, FactoredConv2d)) for part in parts):
        if len(parts) < len(list(fast.modules())):
            return _remarked(
                fast,
                "optimised already: returned as it is; to be fast on another example, optimise "
                "the model that it was made of",
            )
        return _remarked(fast, "no factored layer: returned as it is")
    with torch.no_grad():
        # Copies, since a model may write into its input.
        calls, expected = _observe(fast, example.clone())
        found = find_chains(fast, calls, fuse=True)
        apart = _apart(fast, found.chains, example, expected)
        if not apart:
            found = find_chains(fast, calls, fuse=False)
        bar = progress_bar(
            total=len(found.chains) + len(rivals()), desc="optimise", leave=False, unit="part"
        )
        candidate, report = _replaced(fast, found.chains, calls, bar.update)
        report.remarks += found.remarks
        if not apart:
            report.remarks.append(
                "convolutions are not fused with what follows them: something else reads their "
                "maps, or no finite number in the output could show it"
            )
        try:
            same = _same(candidate(example.clone()), expected)
        except Exception:  # of whatever kind: something cannot go on with fused layers
            same = False
        if same:
            run_as_a_whole(
                *(fast, candidate, example, report),
                same=lambda output: _same(output, expected), tick=bar.update,
            )  # fmt: skip
        bar.close()
    if not same:
        return _remarked(
            fast,
            "left as it was, since optimised it would not repeat its output on the example: it is "
            "not deterministic in evaluation mode, or terms of its factored layers cancel until "
            "rounding shows, or it reads more of its layers than their outputs",
        )
    candidate.report = report
    return candidate


def _remarked(model: nn.Module, remark: str) -> nn.Module:
    warnings.warn(f"optimize_for_inference: {remark}", stacklevel=3)
    before = getattr(model, "report", None)
    model.report = before if isinstance(before, Report) else Report()
    model.report.remarks.append(remark)
    return model


def _observe(model: nn.Module, example: Tensor) -> tuple[dict, object]:
    """Inputs and outputs of each module, call by call, and the model's output."""
    calls, hooks = defaultdict(list), []
    for name, module in model.named_modules():
        hooks.append(
            module.register_forward_hook(
                lambda module, args, output, name=name: calls[name].append((args, output))
            )
        )
    try:
        expected = model(example)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"example has a shape that {type(model).__name__} does not take, "
            f"{tuple(example.shape)}: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return calls, expected


def _apart(model: nn.Module, chains: list[list[str]], example: Tensor, expected) -> bool:
    """Whether nothing in the model but a chain's next layer reads the maps within the chain.

    To everything else they are shown as NaN, and the output must not care. A reader that does not
    show in it, as on a branch that the example does not take, is not found.
    """
    pairs = [pair for names in chains for pair in pairwise(names)]
    if not pairs:
        return True
    if not any(t.is_floating_point() and t.isfinite().any() for t in _tensors(expected)):
        return False  # labels, or nothing: it cannot tell
    model = copy.deepcopy(model)  # it may keep what it has seen
    for before, after in pairs:
        kept = []

        def hide(module, args, output, kept=kept):
            kept.append(output)
            return torch.full_like(output, math.nan)

        model.get_submodule(before).register_forward_hook(hide)
        model.get_submodule(after).register_forward_pre_hook(lambda *_, kept=kept: kept.pop())
    try:
        return _same(model(example.clone()), expected)
    except Exception:  # of whatever kind: something in the model could not go on with NaN
        return False


def _replaced(model: nn.Module, chains: list[list[str]], calls, tick) -> tuple[nn.Module, Report]:
    """A copy of the model with every chain on its fastest path."""
    model, report, known = copy.deepcopy(model), Report(), {}
    for names in chains:
        layers = [model.get_submodule(name) for name in names]
        (x,), _ = calls[names[0]][0]
        fused, choice = fastest(names, layers, x, report, known)
        report.choices.append(choice)
        for layer, other in zip(layers, [fused] + [nn.Identity()] * (len(names) - 1), strict=True):
            _become(layer, other)
        tick()
    return model, report


def _become(layer: nn.Module, other: nn.Module) -> None:
    """Turn a layer into another one, at all places and under all names that the model has it."""
    layer.__class__ = type(other)
    vars(layer).clear()
    vars(layer).update(vars(other))


def _same(output, expected) -> bool:
    ours, theirs = _tensors(output), _tensors(expected)
    return len(ours) == len(theirs) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=_tolerance(b), equal_nan=True)
        for a, b in zip(ours, theirs, strict=True)
    )


def _tolerance(expected: Tensor) -> float:
    if not expected.is_floating_point() or not expected.numel():
        return 0.0
    sizes = expected.abs().nan_to_num(0, 0, 0)
    eps = torch.finfo(expected.dtype).eps
    by_tf32 = expected.is_cuda and torch.backends.cudnn.conv.fp32_precision == "tf32"
    if by_tf32 and expected.dtype == torch.float32:
        eps = 2.0**-10  # by which PyTorch's own convolutions round there
    # With few digits to lose, a hundred roundings would let anything pass.
    return (100 if eps < 1e-4 else 8) * eps * max(float(sizes.max()), 1e-30)


def _tensors(output) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    parts = output if isinstance(output, (list, tuple)) else []
    return [tensor for part in parts for tensor in _tensors(part)]
