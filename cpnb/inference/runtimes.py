"""A network's steps in the runtimes that happen to be installed; none of them is needed.

Each gets the simplified steps as an ONNX model of opset 17, so nothing has to be exported by
PyTorch, which takes seconds, and all of them compute the same.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cpnb.inference.fused.program import Program
from cpnb.inference.steps import NotTaken, Step

OPSET = 17
PACKAGES = {"ONNX Runtime": ("onnx", "onnxruntime"), "OpenVINO": ("onnx", "openvino")}
Run = Callable[[Tensor], Tensor]


def installed() -> dict[str, str]:
    """Versions of the runtimes that can be used here, by their names."""
    found = {}
    for name, packages in PACKAGES.items():
        try:
            found[name] = " ".join(importlib.metadata.version(package) for package in packages)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def prepared(name: str, steps: list[Step], threads: int) -> Run:
    """The steps as a function of a float32 tensor on the CPU, in a runtime.

    Parameters
    ----------
    name : {"cpnb", "ONNX Runtime", "OpenVINO"}
    steps : list of Step
    threads : int

    Raises
    ------
    NotTaken
        The runtime has nothing for a step.
    """
    if name == "cpnb":
        return Program(steps, threads)
    return {"ONNX Runtime": _onnxruntime, "OpenVINO": _openvino}[name](steps, threads)


def _onnxruntime(steps: list[Step], threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(as_onnx(steps), options, ["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"input": _array(x)})[0])


def _openvino(steps: list[Step], threads: int) -> Run:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(as_onnx(steps)), "CPU", settings)
    idle = []  # requests that no thread uses now

    def run(x: Tensor) -> Tensor:
        try:
            request = idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        feed = [openvino.Tensor(_array(x), shared_memory=True)]
        result = request.infer(feed, share_outputs=True)[0]
        result = torch.from_numpy(np.array(result))  # the next pass writes over the other
        idle.append(request)
        return result

    return run


def _array(x: Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.detach().numpy())


def as_onnx(steps: list[Step]) -> bytes:
    """The steps as a serialised ONNX model with an input "input" and an output "output"."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, names = [], [], {}

    def add(op: str, inputs: list[str], **attributes) -> str:
        nodes.append(helper.make_node(op, inputs, [f"{op}{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def keep(tensor: Tensor) -> str:
        array = np.ascontiguousarray(tensor.detach().float().numpy())
        weights.append(numpy_helper.from_array(array, f"weight{len(weights)}"))
        return weights[-1].name

    for step in steps:
        inputs = [names[one] for one in step.inputs]
        result = _emitted(step, inputs, add, keep) if step.inputs else "input"
        names[step] = _activated(step.activation, result, add)
    add_output = helper.make_node("Identity", [names[steps[-1]]], ["output"])
    source = next(step for step in steps if step.kind == "input")
    graph = helper.make_graph(
        [*nodes, add_output],
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, source.shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, steps[-1].shape)],
        weights,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def _emitted(step: Step, inputs: list[str], add, keep) -> str:
    """The step's own result, its activation left out."""
    if step.kind in ("conv", "factored"):
        result = (_conv if step.kind == "conv" else _factored)(step, inputs[0], add, keep)
        return add("Add", [result, inputs[1]]) if len(inputs) > 1 else result
    if step.kind == "linear":
        weights = [keep(step.weights["weight"]), keep(step.weights["bias"])]
        return add("Gemm", [inputs[0], *weights], transB=1)
    if step.kind == "maximum":
        return add("MaxPool", inputs, ceil_mode=int(step.options["up"]), **_window(step))
    if step.kind == "mean":
        whole = int(step.options["whole"])
        return add("AveragePool", inputs, count_include_pad=whole, **_window(step))
    if step.kind == "scale":
        scale, shift = (keep(step.weights[n].reshape(1, -1, 1, 1)) for n in ("scale", "shift"))
        return add("Add", [add("Mul", [inputs[0], scale]), shift])
    named = {"sum": "Add", "product": "Mul", "flatten": "Flatten"}
    if step.kind in named:
        return add(named[step.kind], inputs)
    if step.kind == "concat":
        return add("Concat", inputs, axis=1)
    if step.kind == "activation":
        return inputs[0]
    raise NotTaken(f"ONNX has nothing for {step.kind}")


def _window(step: Step) -> dict:
    options = step.options
    return {
        "kernel_shape": options["kernel_size"],
        "strides": options["stride"],
        "pads": [*options["padding"], *options["padding"]],
    }


def _conv(step: Step, x: str, add, keep) -> str:
    more = {"dilations": step.options["dilation"], "group": step.options["groups"]}
    weights = [keep(step.weights["weight"]), keep(step.weights["bias"])]
    return add("Conv", [x, *weights], **_window(step), **more)


def _factored(step: Step, x: str, add, keep) -> str:
    weights, (dy, dx) = step.weights, step.options["dilation"]
    (up, left), (sy, sx) = step.options["padding"], step.options["stride"]
    rank = len(weights["reduce"])
    x = add("Conv", [x, keep(weights["reduce"][:, :, None, None])])
    down, across = weights["vertical"][:, None, :, None], weights["horizontal"][:, None, None, :]
    x = add("Conv", [x, keep(down)], group=rank, strides=[sy, 1], dilations=[dy, 1],
            pads=[up, 0, up, 0])  # fmt: skip
    x = add("Conv", [x, keep(across)], group=rank, strides=[1, sx], dilations=[1, dx],
            pads=[0, left, 0, left])  # fmt: skip
    return add("Conv", [x, keep(weights["weight"][:, :, None, None]), keep(weights["bias"])])


def _activated(activation: str | None, x: str, add) -> str:
    if activation is None:
        return x
    if activation == "relu6":
        return add("Min", [add("Relu", [x]), _six(add)])
    if activation == "silu":
        return add("Mul", [x, add("Sigmoid", [x])])
    return add({"relu": "Relu", "sigmoid": "Sigmoid"}[activation], [x])


def _six(add) -> str:
    return add("Constant", [], value_float=6.0)
