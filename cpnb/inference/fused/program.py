"""A whole network in one call of the compiled kernels: its steps, and where their maps lie.

Maps lie in NHWC order in one piece of memory that is kept from call to call, with a margin of zeros
where a dense convolution reads one. Each step is shared out among the threads; they never go back
to Python in between.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cpnb.inference.fused import native
from cpnb.inference.fused.memory import Memory, Place
from cpnb.inference.fused.packing import ACTIVATIONS, Packer, padded
from cpnb.inference.steps import NotTaken, Step

KINDS = {
    name: i
    for i, name in enumerate(
        ["layer", "load", "store", "maximum", "mean", "sum", "scale", "activation"]
    )
}  # as in program.h
SPLIT = 1024  # output positions a thread: of fewer, terms are shared out rather than strips


class Program:
    """Steps compiled for one shape and number of threads; float32 on the CPU.

    Parameters
    ----------
    steps : list of Step
        As `cpnb.inference.graph.steps_of` gives them; their weights are copied.
    threads : int

    Raises
    ------
    NotTaken
        A step has no kernel.
    cpnb.inference.fused.native.KernelUnavailable
        The kernels cannot be built on this machine.
    """

    def __init__(self, steps: list[Step], threads: int, split: int = SPLIT):
        self._packer, self._threads = Packer(), threads
        self._split = split
        self._ops: list[native.Op] = []
        self._memory = Memory(self._packer, _as_maps(steps))
        for i, step in enumerate(self._memory.steps):
            prepare = getattr(self, f"_{step.kind}", None)
            if prepare is None or step.activation not in ACTIVATIONS:
                raise NotTaken(f"there is no kernel for {step.activation or step.kind}")
            prepare(step)
            self._memory.pass_by(i)
        self.out_shape = steps[-1].shape
        self._store(self._memory.steps[-1])
        self._idle = []  # memory and orders that no thread uses now

    def __call__(self, x: Tensor) -> Tensor:
        """The network's output for an input of the shape it was made for."""
        try:
            ops, memory = self._idle.pop()
        except IndexError:
            ops = (native.Op * len(self._ops))(*self._ops)
            memory = torch.zeros(self._memory.size + 16)
        load, (samples, channels, row, pixel) = ops[0].call.geometry, x.stride()
        load.in_pixel, load.in_row, load.in_sample = pixel, row, samples
        load.dilation_x = channels
        y = self._result(x)
        failed = self._packer.library.cpnb_program(
            ops, len(ops), memory.data_ptr(), x.data_ptr(), y.data_ptr(), self._threads
        )
        if failed:
            raise MemoryError("the compiled kernel could not allocate its buffers")
        self._idle.append((ops, memory))
        return y

    def _result(self, x: Tensor) -> Tensor:
        layout = torch.channels_last if len(self.out_shape) == 4 else torch.contiguous_format
        return torch.empty(self.out_shape, dtype=x.dtype, memory_format=layout)

    def _add(self, kind: str, geometry: native.Geometry, step: Step, places, **more) -> None:
        self._ops.append(
            native.Op(
                KINDS[kind],
                *places,
                ACTIVATIONS[step.activation],
                more.get("scale"),
                more.get("shift"),
                native.Call(geometry, *more.get("call", (None, None, None, None, 0))),
            )
        )

    def _input(self, step: Step) -> None:
        place = self._memory.place(step)
        geometry = _geometry(place.shape, place.shape[1], place, place)
        geometry.dilation_y = 1
        self._add("load", geometry, step, (0, 0, place.start))

    def _store(self, step: Step) -> None:
        place = self._memory.place(step)
        samples, maps, height, width = place.shape
        result = Place(0, place.shape, maps, width * maps, height * width * maps, ())
        geometry = _geometry(place.shape, maps, place, result)
        geometry.dilation_x = geometry.dilation_y = 1
        self._add("store", geometry, Step("store", [], ()), (place.start, 0, 0))

    def _pool(self, step: Step) -> None:
        source, place = self._memory.place(step.inputs[0]), self._memory.place(step)
        geometry = _geometry(source.shape, source.pixel, source, place, step.options)
        geometry.rank = bool(step.options["whole"])
        self._add(step.kind, geometry, step, (source.start, 0, place.start))

    _maximum = _mean = _pool

    def _each(self, step: Step) -> None:
        source, place = self._memory.place(step.inputs[0]), self._memory.place(step)
        other = self._memory.place(step.inputs[-1])
        geometry = _geometry(source.shape, source.pixel, source, place)
        packed = {
            name: self._packer.keep(padded(values, source.pixel))
            for name, values in step.weights.items()
        }
        self._add(step.kind, geometry, step, (source.start, other.start, place.start), **packed)

    _sum = _scale = _activation = _each

    def _conv(self, step: Step) -> None:
        if step.options["groups"] > 1 or step.options["dilation"][1] > 1:
            raise NotTaken("there is no kernel for a dense convolution with groups or dilation")
        source, place = self._memory.place(step.inputs[0]), self._memory.place(step)
        self._dense(step, step.weights["weight"], step.options, source, place)

    def _dense(self, step, weight: Tensor, options: dict, source: Place, place: Place) -> None:
        """A convolution by the weights (T, S, d_y, d_x), with the step's sum and activation."""
        outputs, channels, high, _ = weight.shape
        weight = F.pad(weight, (0, 0, 0, 0, 0, source.pixel - channels, 0, place.pixel - outputs))
        product = self._last(step, weight.permute(0, 2, 3, 1).flatten(1), high, place)
        (dilation, _), (up, left) = options["dilation"], options["padding"]
        product.tap_stride = source.row * dilation
        geometry = _geometry(source.shape, source.pixel, source, place, options)
        geometry.pad_y = geometry.pad_x = 0  # in the margin
        geometry.out_channels, geometry.threads = place.pixel, self._threads
        call = None, None, None, self._packer.array([product]), 1
        self._add("layer", geometry, step, (source.at(-up, -left), 0, place.start), call=call)

    def _last(self, step: Step, weight: Tensor, taps: int, place: Place) -> native.Product:
        bias = padded(step.weights["bias"], place.pixel)
        residual = 0
        if len(step.inputs) > 1:
            residual = self._memory.place(step.inputs[1]).start - place.start
        return self._packer.product(
            weight, bias, activation=step.activation, taps=taps, residual=residual
        )

    def _factored(self, step: Step) -> None:
        source, place = self._memory.place(step.inputs[0]), self._memory.place(step)
        packer, weights = self._packer, step.weights
        rank = weights["reduce"].shape[0]
        width = packer.width(rank)
        reduce = F.pad(weights["reduce"], (0, source.pixel - weights["reduce"].shape[1]))
        front = (
            packer.array([packer.product(padded(reduce, width), None)]),
            packer.filters(weights["vertical"], 1, width),
            packer.filters(weights["horizontal"], 1, width),
        )
        geometry = _geometry(source.shape, source.pixel, source, place, step.options)
        geometry.rank, geometry.threads, geometry.out_channels = rank, self._threads, place.pixel
        samples, _, height, wide = place.shape
        if samples * height * wide > self._split * self._threads:
            last = self._last(step, padded(weights["weight"], place.pixel), 1, place)
            call = *front, packer.array([last]), 1
            return self._add("layer", geometry, step, (source.start, 0, place.start), call=call)
        middle = self._memory.take((samples, width, height, wide))
        geometry.out_pixel, geometry.out_row, geometry.out_sample = middle.strides
        places = source.start, 0, middle.start
        self._add("layer", geometry, step, places, call=(*front, None, 0))
        options = {"padding": (0, 0), "dilation": (1, 1)}
        self._dense(step, weights["weight"][:, :, None, None], options, middle, place)
        self._memory.give_back(middle)


def _geometry(shape, channels: int, source: Place, place: Place, options=None) -> native.Geometry:
    options = options or {}
    size, stride = options.get("kernel_size", (1, 1)), options.get("stride", (1, 1))
    padding, dilation = options.get("padding", (0, 0)), options.get("dilation", (1, 1))
    samples, _, height, width = shape
    return native.Geometry(
        *(samples, height, width, channels, *place.shape[2:], 0, 1),
        *(*size, *stride, *padding, *dilation, 0, 0, *source.strides, *place.strides),
    )


def _as_maps(steps: list[Step]) -> list[Step]:
    """All in four axes: a linear layer as a convolution with a kernel as large as its input."""
    made = {}
    for step in steps:
        inputs = [made[one] for one in step.inputs]
        made[step] = _as_map(step, inputs, steps)
    return list(dict.fromkeys(made.values()))


def _as_map(step: Step, inputs: list[Step], steps: list[Step]) -> Step:
    shape = step.shape if len(step.shape) == 4 else (*step.shape, 1, 1)
    if step.kind == "flatten":
        if inputs[0].shape[2:] != (1, 1) and any(
            step in other.inputs and other.kind != "linear" for other in steps
        ):
            raise NotTaken("maps are flattened for something else than a linear layer")
        if step is steps[-1] and inputs[0].shape[2:] != (1, 1):
            raise NotTaken("flattened maps are the output")
        return inputs[0]
    if step.kind == "linear":
        weight = step.weights["weight"].unflatten(1, inputs[0].shape[1:])
        options = {"kernel_size": inputs[0].shape[2:], "groups": 1}
        options |= {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
        return Step(
            "conv", inputs, shape, step.weights | {"weight": weight}, options, step.activation
        )
    return Step(step.kind, inputs, shape, step.weights, step.options, step.activation)
