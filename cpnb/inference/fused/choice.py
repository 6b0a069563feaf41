"""Which path is the fastest for a chain of layers: measured, and told."""

from __future__ import annotations

import contextlib
import copy
import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cpnb.inference import measured
from cpnb.inference.fused.module import PATHS, FusedConv
from cpnb.inference.fused.native import KernelUnavailable
from cpnb.inference.latency import measure_interleaved
from cpnb.layers.cp import CPConv2d

HOPELESS = 2.0  # times the best of the first looks: not measured any further
FAR = 10.0  # times the best: the other memory layout of the dense form would not mend that
SECONDS = 0.1  # a contender


@dataclass
class Choice:
    """What was measured for one chain of layers, and the path it takes.

    Attributes
    ----------
    names
        Of the layers that were fused.
    input
        Shape that they were measured on.
    milliseconds
        Path to the median of its runs; of a path hopeless from the start, the better of two.
        The second dense form is left out where the first is hopeless by far.
    path
        The fastest of those that were measured in turns.
    """

    names: list[str]
    input: tuple[int, ...]
    milliseconds: dict[str, float]
    path: str


@dataclass
class Report:
    """What `optimize_for_inference` chose; ``print(fast.report)`` shows a table.

    Attributes
    ----------
    choices
        One for each chain of layers, in the order of the model.
    remarks
        What else there is to know, such as why there is no compiled kernel.
    no_kernel
        Whether the compiled kernel cannot be had on this machine.
    whole
        Milliseconds of the whole network by what ran it: "layers" are the chains as chosen, one
        after the other; the others are runtimes. Empty where only the layers could be had.
    choice
        The fastest of these.
    """

    choices: list[Choice] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    no_kernel: bool = False
    whole: dict[str, float] = field(default_factory=dict)
    choice: str = "layers"

    def __str__(self) -> str:
        rows = [["layers", "input", *(f"{path} (ms)" for path in PATHS), "chosen"]]
        for choice in self.choices:
            times = [choice.milliseconds.get(path) for path in PATHS]
            shape = "x".join(map(str, choice.input))
            cells = ["-" if ms is None else f"{ms:.3g}" for ms in times]
            rows.append([" + ".join(choice.names), shape, *cells, choice.path])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        told = [line.rstrip() for line in lines if self.choices]
        if self.whole:
            times = ", ".join(f"{name} {ms:.3g} ms" for name, ms in self.whole.items())
            told.append(f"the whole network: {times}; chosen: {self.choice}")
        return "\n".join(told + self.remarks)


def fastest(names, layers, x: Tensor, report: Report, known: dict) -> tuple[nn.Module, Choice]:
    """The chain on the path that takes the least time, and what was measured.

    What is in ``known``, or was remembered, of layers alike on such input is not measured again.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    on = torch.cuda.get_device_name(x.device) if x.is_cuda else x.device
    key = measured.key_of(*layers, x.shape, x.dtype, on)
    found = known.get(key) or measured.recalled(key)
    if found:
        with contextlib.suppress(KernelUnavailable, ValueError):
            fused = _made(layers, found["path"])
            known[key] = found
            shape = tuple(x.shape)
            return fused, Choice(names, shape, dict(found["milliseconds"]), found["path"])
    contenders = _contenders(names, layers, report)
    looks = _first_looks(contenders, x)
    limit = HOPELESS * min(looks.values())
    hopeful = {path: (contenders[path], x) for path, ms in looks.items() if ms <= limit}
    latencies = measure_interleaved(hopeful, warmup=1, seconds=SECONDS)
    medians = {path: latency.median_ms for path, latency in latencies.items()}
    # Not of the looks too: the machine may have slowed down since.
    choice = Choice(names, tuple(x.shape), looks | medians, min(medians, key=medians.get))
    known[key] = {"path": choice.path, "milliseconds": choice.milliseconds}
    measured.remember(key, known[key])
    return contenders[choice.path], choice


def _contenders(names, layers, report: Report) -> dict[str, nn.Module]:
    """Path to the chain on it."""
    contenders = {}
    for path in PATHS:
        if path == "factored" and not isinstance(layers[0], CPConv2d):
            continue  # it is the dense one
        if path == "compiled" and report.no_kernel:
            continue
        try:
            contenders[path] = _made(layers, path)
        except KernelUnavailable as error:
            report.no_kernel = True
            report.remarks.append(str(error))
            warnings.warn(f"optimize_for_inference goes on in plain PyTorch: {error}", stacklevel=5)
        except ValueError as error:
            remark = f"{' + '.join(names)}: {error}"
            report.remarks.append(remark)
    return contenders


def _made(layers, path: str) -> FusedConv:
    fused = FusedConv([copy.deepcopy(layer) for layer in layers], path)
    return fused.to(memory_format=fused.layout)


def _first_looks(contenders: dict[str, nn.Module], x: Tensor) -> dict[str, float]:
    """Path to milliseconds of the better of two passes.

    The first one of a module may take several times as long as the later ones, and the machine may
    pause in any: no path is hopeless for one pass.
    """
    looks = {}
    for path in reversed(contenders):  # the dense forms last
        if path == "dense, NCHW" and looks.get("dense", 0.0) > FAR * min(looks.values()):
            continue  # seconds on a large image
        looks[path] = min(_look(contenders[path], x), _look(contenders[path], x))
    return looks


def _look(module: nn.Module, x: Tensor) -> float:
    """Milliseconds of one pass."""
    if x.is_cuda:  # what Triton compiles and cuDNN chooses at first is not the layer's time
        module(x)
        torch.cuda.synchronize(x.device)
    return measure_interleaved({"": (module, x)}, warmup=0, runs=1)[""].median_ms
