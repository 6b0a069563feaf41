"""Where the maps between a network's steps lie: in one piece of memory, some with a margin."""

from __future__ import annotations

from dataclasses import dataclass

from cpnb.inference.fused.packing import Packer
from cpnb.inference.steps import Step


@dataclass
class Place:
    """Where maps lie: floats from the start of the memory to the first, and between them."""

    start: int
    shape: tuple[int, ...]
    pixel: int
    row: int
    sample: int
    key: tuple  # of its size and margin

    def at(self, y: int, x: int) -> int:
        """Of a position, which may be in the margin."""
        return self.start + y * self.row + x * self.pixel

    @property
    def strides(self) -> tuple[int, int, int]:
        """Of a position, a row and a sample."""
        return self.pixel, self.row, self.sample


class Memory:
    """Where the steps' maps lie: what is read no more makes room for maps of the same shape."""

    def __init__(self, packer: Packer, steps: list[Step]):
        self.steps, self.size = steps, 0
        self._packer = packer
        self._margins = _margins(steps)
        self._places, self._free = {}, {}

    def place(self, step: Step) -> Place:
        """Of the step's output."""
        if step not in self._places:
            self._places[step] = self.take(step.shape, self._margins[step], step.kind == "input")
        return self._places[step]

    def take(self, shape, margin=(0, 0), tight: bool = False) -> Place:
        """Room for such maps; few channels lie `tight`, not in whole vectors."""
        samples, maps, height, width = shape
        pixel = maps if tight and maps < 4 else self._packer.width(maps)
        key = tuple(shape), margin, pixel
        if self._free.get(key):
            return self._free[key].pop()
        row = (width + 2 * margin[1]) * pixel
        sample = (height + 2 * margin[0]) * row
        start = self.size + margin[0] * row + margin[1] * pixel
        self.size += -(-samples * sample // 1024) * 1024 + 16  # maps apart, not in one cache set
        return Place(start, tuple(shape), pixel, row, sample, key)

    def give_back(self, place: Place) -> None:
        """Nobody reads these maps any more."""
        self._free.setdefault(place.key, []).append(place)

    def pass_by(self, i: int) -> None:
        """Free what no step after the i-th reads."""
        later = {one for step in self.steps[i + 1 :] for one in step.inputs}
        for step in set(self.steps[i].inputs) - later:
            self.give_back(self._places[step])


def _margins(steps: list[Step]) -> dict[Step, tuple[int, int]]:
    """Zeros around each step's output; what is added up has the same."""
    margins = dict.fromkeys(steps, (0, 0))
    for step in steps:
        if step.kind == "conv":
            _widen(margins, step.inputs[0], step.options["padding"])
    alike = [
        (step, one)
        for step in steps
        for one in (step.inputs if step.kind == "sum" else step.inputs[1:])
    ]
    for _ in alike:
        for step, one in alike:
            _widen(margins, step, margins[one])
            _widen(margins, one, margins[step])
    return margins


def _widen(margins, step, margin) -> None:
    margins[step] = tuple(map(max, margins[step], margin))
