"""Latency of models: measured speed-ups.

Only ratios of latencies measured in turns (A B C A B C ...) are trusted: the clock rate, the
temperature and other processes drift, and turns let the drift hit all alike.
"""

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor, nn

from cpnb.inference.examples import check_pair
from cpnb.layers.copies import copied
from cpnb.training.evaluation import evaluation_mode

LEAST_RUNS, MOST_RUNS = 5, 10_000
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass: the median, and the spread of the middle half of the runs.

    Attributes
    ----------
    median_ms, iqr_ms
        Median and inter-quartile range, milliseconds.
    runs
        Timed passes.
    threads
        CPU threads that PyTorch was allowed.
    device, dtype
        Of the example, for instance "cpu" and "float32".
    """

    median_ms: float
    iqr_ms: float
    runs: int
    threads: int
    device: str
    dtype: str

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return (
            f"{self.median_ms:.3g} ms (IQR {self.iqr_ms:.2g} ms, {self.runs} runs, {threads}, "
            f"{self.device}, {self.dtype})"
        )


def measure_latency(
    model: nn.Module, example: Tensor, *, channels_last: bool = False, **options
) -> Latency:
    """Latency of `model(example)` in evaluation mode, without gradients.

    Parameters
    ----------
    model : nn.Module
        Left as it was: its mode, its memory layout and the number of threads are restored.
    example : Tensor
        One input batch (N, ...), on the model's device.
    channels_last : bool
        Measure a channels_last copy of model and example, which is (N, C, H, W) then; by default
        they are taken as they are.
    **options
        runs, warmup, seconds, threads: see `measure_interleaved`.
    """
    if channels_last:
        check_pair("model", model, example)
        if example.ndim != 4:
            raise ValueError(
                "channels_last=True needs an example (N, C, H, W), got shape "
                f"{tuple(example.shape)}"
            )
        model, example = _in_layout(model, example, torch.channels_last)
    return measure_interleaved({"model": (model, example)}, **options)["model"]


def measure_interleaved(
    contenders: dict[str, tuple[nn.Module, Tensor]],
    *,
    runs: int | None = None,
    warmup: int = 3,
    seconds: float = 1.0,
    threads: int | None = None,
) -> dict[str, Latency]:
    """Latencies of several models, run in turns so that drift hits all alike.

    Parameters
    ----------
    contenders : dict
        Name to (model, example); each example on its model's device.
    runs : int, optional
        Timed passes of each; by default as many as fit in `seconds` a contender, at least 5.
    warmup : int
        Passes of each before, not timed.
    seconds : float
        Time for each contender if `runs` is not given.
    threads : int, optional
        CPU threads for all; by default PyTorch's present setting, which is restored in any case.

    Returns
    -------
    dict
        Name to `Latency`.
    """
    _check_options(runs, warmup, seconds, threads)
    if not contenders:
        raise ValueError("contenders must name at least one (model, example), got none")
    for name, (model, example) in contenders.items():
        check_pair(name, model, example)
    times = {name: [] for name in contenders}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        used = stack.enter_context(_threads(threads))
        for model, _ in contenders.values():
            stack.enter_context(evaluation_mode(model))
        for _ in range(warmup):
            for model, example in contenders.values():
                _time_once(model, example)
        deadline = time.perf_counter() + seconds * len(contenders)
        while not _enough(len(next(iter(times.values()))), runs, deadline):
            for name, (model, example) in contenders.items():
                times[name].append(_time_once(model, example))
    return {name: _summary(times[name], used, example) for name, (_, example) in contenders.items()}


def measure_fastest(
    models: dict[str, nn.Module], example: Tensor, **options
) -> dict[str, tuple[str, Latency]]:
    """The faster memory layout of each model, and its latency; all measured in turns.

    Parameters
    ----------
    models : dict
        Name to model; none is changed.
    example : Tensor
        One input batch (N, ...).
    **options
        See `measure_interleaved`.

    Returns
    -------
    dict
        Name to ("NCHW" or "channels_last", `Latency`); to ("contiguous", `Latency`) where the
        example has not the four axes that there are two layouts of.
    """
    for name, model in models.items():
        check_pair(name, model, example)
    layouts = LAYOUTS if example.ndim == 4 else {"contiguous": torch.contiguous_format}
    contenders = {
        (name, layout): _in_layout(model, example, memory_format)
        for name, model in models.items()
        for layout, memory_format in layouts.items()
    }
    measured = measure_interleaved(contenders, **options)
    fastest = {}
    for (name, layout), latency in measured.items():
        if name not in fastest or latency.median_ms < fastest[name][1].median_ms:
            fastest[name] = (layout, latency)
    return fastest


def fastest_dense(model: nn.Module, example: Tensor, **options) -> tuple[str, Latency]:
    """The faster layout, as `measure_fastest` names it, and its latency: what is to be beaten."""
    return measure_fastest({"dense": model}, example, **options)["dense"]


def speedup(dense: Latency, fast: Latency) -> float:
    """How many times faster `fast` is than `dense`, by the medians.

    Raises
    ------
    ValueError
        If the two were measured on other devices, with other threads or in another precision.
    """
    for field in ("device", "dtype", "threads"):
        ours, theirs = getattr(dense, field), getattr(fast, field)
        if ours != theirs:
            raise ValueError(f"latencies of unlike {field}: dense {ours}, fast {theirs}")
    return dense.median_ms / fast.median_ms


def _in_layout(model: nn.Module, example: Tensor, memory_format) -> tuple[nn.Module, Tensor]:
    """A copy of model and example in a memory layout."""
    model = copied(model).to(memory_format=memory_format)
    return model, example.clone(memory_format=memory_format)


def _time_once(model: nn.Module, example: Tensor) -> float:
    """Milliseconds of one forward pass."""
    if example.device.type == "cuda":
        with torch.cuda.device(example.device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            model(example)
            end.record()
            end.synchronize()
        return start.elapsed_time(end)
    finish = torch.mps.synchronize if example.device.type == "mps" else lambda: None
    finish()
    start = time.perf_counter()
    model(example)
    finish()
    return (time.perf_counter() - start) * 1e3


def _enough(done: int, runs: int | None, deadline: float) -> bool:
    if runs is not None:
        return done >= runs
    return done >= MOST_RUNS or (done >= LEAST_RUNS and time.perf_counter() >= deadline)


def _summary(times: list[float], threads: int, example: Tensor) -> Latency:
    lower, median, upper = np.percentile(times, [25, 50, 75]).tolist()
    return Latency(
        median_ms=median,
        iqr_ms=upper - lower,
        runs=len(times),
        threads=threads,
        device=str(example.device),
        dtype=str(example.dtype).removeprefix("torch."),
    )


@contextmanager
def _threads(threads: int | None):
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(int(threads))
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def _check_options(runs, warmup, seconds, threads) -> None:
    for name, value, least in (("runs", runs, 1), ("warmup", warmup, 0), ("threads", threads, 1)):
        if value is None and name != "warmup":
            continue
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            accepted = f"an integer of at least {least}" + (" or None" if name != "warmup" else "")
            raise ValueError(f"{name} must be {accepted}, got {value!r}")
    if not isinstance(seconds, Real) or not seconds > 0:
        raise ValueError(f"seconds must be a number above 0, got {seconds!r}")
