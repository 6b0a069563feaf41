"""Which runtime is the fastest for a network as a whole, its layers one by one among them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from cpnb.inference import measured
from cpnb.inference.fused import choice
from cpnb.inference.fused.choice import Report
from cpnb.inference.fused.module import FusedConv, plain_batch
from cpnb.inference.fused.native import KernelUnavailable
from cpnb.inference.graph import steps_of
from cpnb.inference.latency import measure_fastest
from cpnb.inference.runtimes import Run, installed, prepared
from cpnb.inference.steps import NotTaken, Step
from cpnb.inference.whole import Whole

LAYERS = "layers"
TURNS = 3


def rivals() -> list[str]:
    """Names of what could run a whole network here."""
    return ["cpnb", *installed()]


def run_as_a_whole(
    model: nn.Module,
    candidate: nn.Module,
    example: Tensor,
    report: Report,
    same: Callable[[object], bool],
    tick: Callable[[], None],
) -> None:
    """Let the fastest runtime run the candidate, where one is faster than its layers.

    Parameters
    ----------
    model : nn.Module
        As it was before its layers were replaced: what the runtimes get.
    candidate : nn.Module
        The same with its layers replaced; its ``forward`` is set where a runtime wins.
    example : Tensor
    report : Report
        Is told what was measured, and why something was not.
    same : callable
        Whether an output is the expected one.
    tick : callable
        Called after each runtime.
    """
    if isinstance(candidate, FusedConv):
        return  # it is a single chain
    try:
        steps = _steps(model, example)
    except NotTaken as error:
        report.remarks.append(f"no runtime takes the network as a whole: {error}")
        return
    key = measured.key_of(model, _signature(steps), example.stride(), installed(), report.choices)
    found = measured.recalled(key)
    names = rivals() if found is None else [name for name in [found["choice"]] if name != LAYERS]
    runs = {}
    for name in names:
        run = _prepared(name, steps, example, same, report)
        # Measured as it will be called: to look whether a weight has changed takes time too.
        runs |= {name: Whole(candidate, example.shape, run)} if run else {}
        tick()
    if found and set(runs) == set(names):
        report.whole, report.choice = found["whole"], found["choice"]
    elif runs:
        report.whole = _measured({LAYERS: candidate, **runs}, example)
        report.choice = min(report.whole, key=report.whole.get)
        measured.remember(key, {"whole": report.whole, "choice": report.choice})
    if report.choice != LAYERS:
        candidate.forward = runs[report.choice]


def least_milliseconds(
    models: dict[str, nn.Module], example: Tensor, seconds: float
) -> dict[str, float]:
    """Median of each model in the runtime that is fastest for it, PyTorch's two layouts among them.

    Parameters
    ----------
    models : dict of str to nn.Module
    example : Tensor
        What they take.
    seconds : float
        For each contender.
    """
    torch_alone = measure_fastest(models, example, warmup=1, seconds=seconds)
    least = {name: latency.median_ms for name, (_, latency) in torch_alone.items()}
    runs = {
        (name, runtime): run
        for name, model in models.items()
        for runtime, run in _runs(model, example).items()
    }
    for (name, _), taken in _turn(runs, example, seconds).items():
        least[name] = min(least[name], median(taken))
    return least


def _runs(model: nn.Module, example: Tensor) -> dict[str, Run]:
    """The model in every runtime that takes it."""
    found = {}
    try:
        steps = _steps(model.eval(), example)
    except NotTaken:
        return found
    for name in rivals():
        try:
            found[name] = prepared(name, steps, torch.get_num_threads())
            found[name](example)
        except Exception:  # of whatever kind: a runtime that fails is none
            found.pop(name, None)
    return found


def _steps(model: nn.Module, example: Tensor) -> list[Step]:
    if not example.is_cpu or example.dtype != torch.float32:
        raise NotTaken(f"they take float32 on the CPU, it gets {example.dtype} on {example.device}")
    if not len(example):
        raise NotTaken("the example has no samples")
    if not plain_batch(example):  # `Whole` would leave it to the layers, and they be measured
        raise NotTaken("they take a plain tensor of shape (N, S, H, W)")
    return steps_of(copy.deepcopy(model), example.clone())


def _prepared(name: str, steps, example: Tensor, same, report: Report) -> Run | None:
    try:
        run = prepared(name, steps, torch.get_num_threads())
        if same(run(example.clone())):
            return run
        report.remarks.append(f"{name} is left out: it does not repeat the output on the example")
    except (NotTaken, KernelUnavailable) as error:
        report.remarks.append(f"{name} does not take the network as a whole: {error}")
    except Exception as error:  # of whatever kind: a runtime that fails is none
        told = (str(error).splitlines() or [""])[0][:120]
        report.remarks.append(f"{name} fails: {type(error).__name__}: {told}")
    return None


def _measured(contenders: dict[str, Run], example: Tensor) -> dict[str, float]:
    """Milliseconds of each, the median; of those hopeless from the start, of the first look.

    In turns of several passes, the first of them not timed: threads of the runtime before may
    still be spinning, and its maps be in the caches.
    """
    example = example.clone()
    looks = _turn(contenders, example, seconds=0.0)
    limit = choice.HOPELESS * min(map(median, looks.values()))
    hopeful = {name: run for name, run in contenders.items() if median(looks[name]) <= limit}
    times = {name: [] for name in hopeful}
    for _ in range(TURNS):
        for name, more in _turn(hopeful, example, choice.SECONDS).items():
            times[name] += more
    medians = {name: median(taken) for name, taken in times.items()}
    # What was hopeless stays behind, however slow the machine was at its first look.
    behind = {name: max(median(ms), *medians.values()) for name, ms in looks.items()}
    return behind | medians


@torch.inference_mode()
def _turn(contenders: dict[str, Run], example: Tensor, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of three passes or more of each, after two or more that are not timed."""
    return {
        name: (_passes(run, example, 2, seconds / 2), _passes(run, example, 3, seconds))[1]
        for name, run in contenders.items()
    }


def _passes(run: Run, example: Tensor, least: int, seconds: float) -> list[float]:
    taken, end = [], time.perf_counter() + seconds
    while len(taken) < least or time.perf_counter() < end:
        start = time.perf_counter()
        run(example)
        taken.append((time.perf_counter() - start) * 1e3)
    return taken


def _signature(steps: list[Step]) -> list:
    return [(step.kind, step.shape, step.options, step.activation) for step in steps]
