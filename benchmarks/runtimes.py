"""The same network in several runtimes, and how they are timed; imported, not run."""

from __future__ import annotations

import copy
import importlib.metadata
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cpnb.training.fastconv import conv2d_by_fft, fast_convolutions

PEERS = ("onnxruntime", "openvino", "onnx")
LEAST_TURNS, MOST_TURNS, PASSES, SLOW = 3, 40, 20, 0.1
SETTLE = 0.1  # seconds until threads of the runtime before have stopped spinning


def versions() -> dict:
    """Of the peers that are installed."""
    found = {}
    for name in PEERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def contenders(model: nn.Module, example: torch.Tensor, threads: int, with_compile: bool) -> dict:
    """Runtime to a function without arguments; what is not installed or fails is told, left out."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    makers = {
        "eager NCHW": lambda: _eager(model, example, torch.contiguous_format),
        "channels_last": lambda: _eager(model, example, torch.channels_last),
    }
    if example.is_cuda:
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        makers["CUDA graph"] = lambda: graphed(last, example)
    else:
        makers["ONNX Runtime"] = lambda: _onnxruntime(model, example, threads)
        makers["OpenVINO"] = lambda: _openvino(model, example, threads)
    if with_compile:
        makers["torch.compile"] = lambda: _compiled(model, example)
    if _fits_fft(model) and not example.is_cuda:
        makers["eager, FFT"] = lambda: _fft(model, example)
    made = {}
    for name, make in makers.items():
        try:
            made[name] = make()
            made[name]()
        except Exception as error:  # a peer's failure is a row that is missing, not ours
            made.pop(name, None)
            print(f"  {name}: left out, {type(error).__name__}: {str(error).splitlines()[0][:120]}")
    return made


def time_in_turns(functions: dict, seconds: float) -> dict:
    """Name to seconds of each timed pass; in turns, so that drift hits all alike.

    A turn begins with passes that are not timed, because idle threads of the runtime before may
    still be spinning through them; then a few are.
    """
    times = {name: [] for name in functions}
    deadline = time.perf_counter() + seconds * len(functions)
    turns = 0
    while turns < LEAST_TURNS or (turns < MOST_TURNS and time.perf_counter() < deadline):
        for name, function in functions.items():
            settled = time.perf_counter() + SETTLE
            while time.perf_counter() < settled:
                function()
            start = last = time.perf_counter()
            for _ in range(PASSES):
                function()
                now = time.perf_counter()
                times[name].append(now - last)
                last = now
                if now - start > SLOW:
                    break
        turns += 1
    return times


def summary(times: list[float]) -> dict:
    """Median and inter-quartile range in milliseconds, and the number of runs."""
    lower, median, upper = np.percentile(np.array(times) * 1e3, [25, 50, 75]).tolist()
    return {"median_ms": median, "iqr_ms": upper - lower, "runs": len(times)}


def _eager(model, example, layout):
    model = copy.deepcopy(model).to(memory_format=layout)
    example = example.clone(memory_format=layout)
    return finishing(lambda: model(example), example)


def graphed(model, example):
    """The model's kernels captured once and launched as one; only on a GPU."""
    example = example.clone(memory_format=torch.channels_last)
    for _ in range(3):  # what is chosen, compiled and allocated at first must not be captured
        model(example)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = model(example)

    def replay(held=(model, example)):  # the graph has their addresses alone
        graph.replay()
        return output

    return finishing(replay, example)


def finishing(function, example):
    """The function, but a GPU has finished when it returns."""
    if not example.is_cuda:
        return function

    def run():
        result = function()
        torch.cuda.synchronize()
        return result

    return run


def _compiled(model, example):
    torch._dynamo.reset()
    model = torch.compile(copy.deepcopy(model).to(memory_format=torch.channels_last))
    example = example.clone(memory_format=torch.channels_last)
    return finishing(lambda: model(example), example)


def _fits_fft(model) -> bool:
    return any(
        type(m) is nn.Conv2d and min(m.kernel_size) >= 5 and not _deep(m) for m in model.modules()
    )


def _deep(conv) -> bool:
    return conv.groups > 1 or max(conv.stride) > 1


def _fft(model, example):
    """Kernels from 5x5 on by spectra, also where `fast_convolutions` would not choose them."""
    spectral = copy.deepcopy(model)
    if isinstance(spectral, nn.Conv2d):
        up, across = spectral.padding

        def run():
            padded = nn.functional.pad(example, (across, across, up, up))
            return conv2d_by_fft(padded, spectral.weight, spectral.bias)

        return run

    def run():
        with fast_convolutions(spectral):
            return spectral(example)

    return run


def _exported(model, example, folder) -> Path:
    path = Path(folder) / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (example,), path, dynamo=True, verbose=False)
    return path


def _onnxruntime(model, example, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    with tempfile.TemporaryDirectory() as folder:
        path = _exported(model, example, folder)
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: example.numpy()}
    return lambda: session.run(None, feed)


def _openvino(model, example, threads):
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    with tempfile.TemporaryDirectory() as folder:
        path = _exported(model, example, folder)
        request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    feed = [openvino.Tensor(np.ascontiguousarray(example.numpy()))]
    return lambda: request.infer(feed, share_outputs=True)
