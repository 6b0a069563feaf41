"""Where a net's time goes, stage by stage, against what the machine can do.

The roofline model (Williams, Waterman & Patterson, CACM 2009): a stage that does I floating-point
operations for each byte it has to move runs at min(peak, I · bandwidth) at best.
"""

from __future__ import annotations

from itertools import count
from statistics import median
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cpnb.inference.counts import count_multiplies
from cpnb.inference.examples import check_pair
from cpnb.inference.latency import measure_interleaved
from cpnb.layers.copies import copied
from cpnb.training.evaluation import evaluation_mode


class Rates(NamedTuple):
    """What a machine reaches on work that is nothing but arithmetic, or nothing but traffic."""

    gflops: float  # 10⁹ floating-point operations a second
    gbytes: float  # 10⁹ bytes a second, to and from memory

    def roof(self, intensity):
        """GFLOP/s that ``intensity`` (operations a byte; number or array) allows at most."""
        return np.minimum(intensity * self.gbytes, self.gflops)


def machine_rates(device="cpu", size: int = 2048, repeats: int = 9) -> Rates:
    """Measured rates in float32, with the threads that PyTorch has now.

    Parameters
    ----------
    device : str or torch.device
    size : int
        Of the square matrices that are multiplied. Beside it runs a 3×3 convolution of size/8
        maps, for which some libraries have the better kernels: the faster of both counts. The
        copied array has 16·size² numbers, 268 MB at 2048: more than caches hold.
    repeats : int
        The median counts.

    Returns
    -------
    Rates
    """
    a, b = torch.randn(2, size, size, device=device)
    c = torch.empty_like(a)
    maps = torch.randn(1, size // 8, size // 32, size // 32, device=device)
    kernel = torch.randn(size // 8, size // 8, 3, 3, device=device)
    maps, kernel = (x.to(memory_format=torch.channels_last) for x in (maps, kernel))
    source = torch.ones(16 * size**2, device=device)
    target = torch.empty_like(source)

    def seconds(work) -> float:
        times = []
        for _ in range(repeats + 1):
            began = perf_counter()
            work()
            if a.is_cuda:
                torch.cuda.synchronize(a.device)
            times.append(perf_counter() - began)
        return median(times[1:])

    product = 2 * size**3 / seconds(lambda: torch.mm(a, b, out=c))
    positions = maps[0, 0].numel()
    convolution = (
        2
        * kernel.numel()
        * positions
        / seconds(lambda: nn.functional.conv2d(maps, kernel, padding=1))
    )
    copy = 2 * source.nbytes / seconds(lambda: target.copy_(source))
    return Rates(max(product, convolution) / 1e9, copy / 1e9)


def time_stages(model: nn.Module, example: Tensor, seconds: float = 0.1) -> list[dict]:
    """Time, arithmetic and least traffic of each leaf module, in channels_last.

    Parameters
    ----------
    model : nn.Module
        Left as it is: a copy runs.
    example : Tensor, shape (N, ...)
    seconds : float
        Of timing a stage, all in turns.

    Returns
    -------
    list of dict
        ``stage``, ``ms``, ``multiplies`` (of the whole batch), ``bytes``: input, weights and
        output once each, which is the least that a stage run by itself has to move. A module that
        runs several times is a stage each time: "relu", "relu, call 2".
    """
    check_pair("time_stages", model, example)
    model = copied(model).to(memory_format=torch.channels_last)
    stages, moved, hooks = {}, {}, []

    def watch(name):
        calls = count(1)

        def hook(module, args, output):
            number = next(calls)
            stage = name if number == 1 else f"{name}, call {number}"
            stages[stage] = module, _channels_last(args[0])
            weights = sum(p.nbytes for p in module.parameters())
            moved[stage] = args[0].nbytes + weights + output.nbytes

        return hook

    for name, module in model.named_modules():
        if not list(module.children()):
            hooks.append(module.register_forward_hook(watch(name)))
    try:
        with evaluation_mode(model), torch.inference_mode():
            model(_channels_last(example))
    finally:
        for hook in hooks:
            hook.remove()
    timed = measure_interleaved(stages, seconds=seconds)
    return [
        {
            "stage": name,
            "ms": latency.median_ms,
            "multiplies": count_multiplies(*stages[name]) * len(stages[name][1]),
            "bytes": moved[name],
        }
        for name, latency in timed.items()
    ]


def _channels_last(x: Tensor) -> Tensor:
    """Maps (N, C, H, W) in channels_last; whatever else as it is."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
