"""Passes over the data that begin in the middle of a network.

To look at one layer after the other, a network would run from the images to each of them: half a
pass for every layer. Where it can be traced it goes on, instead, from maps that were kept at the
last *cut* before the layer, a place where one tensor carries all that follows, such as the end of a
residual block.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from cpnb.layers.copies import copied
from cpnb.training.batches import image_batches
from cpnb.training.evaluation import device_of, evaluation_mode
from cpnb.training.tracing import traced

MOST = 2**30  # bytes of maps that are kept
BATCH = 32  # images
LAYOUTS = torch.channels_last, torch.contiguous_format  # the former takes a CPU less time


class Place(NamedTuple):
    """Of a cut: the bytes of its maps, an image, and how they lie in memory."""

    size: int
    layout: torch.memory_format


class Cuts:
    """Where the forward pass of a network, and of those of the same structure, can be cut in two.

    Parameters
    ----------
    nodes : list of fx.Node
        Of its graph, in order; none where no graph computes what the network does.
    places : dict of int to Place
        By the positions of nodes whose values carry all that follows.
    """

    def __init__(self, nodes: list[fx.Node], places: dict[int, Place]):
        self.nodes, self.places = nodes, places
        self._parts = {}  # compiled code

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, images: Tensor) -> Cuts:
        """The cuts of a model on such images, found on two of them."""
        with evaluation_mode(model):
            graph = traced(copied(model))  # what a model keeps of a trace stays in the copy
            if graph is not None:
                for layout in LAYOUTS:
                    values = _values_of(model, graph, torch.cat([images, images])[:2], layout)
                    if values:
                        nodes = list(graph.nodes)
                        places = {i: _place(*values[i]) for i in _alone(nodes)}
                        return cls(nodes, {i: place for i, place in places.items() if place})
        return cls([], {})

    def before(self, layer: str, most: float) -> int | None:
        """The last place before the layer's first call with maps of at most so many bytes an image.

        0 is the images; None if there is no such call.
        """
        for index, node in enumerate(self.nodes):
            if node.op == "call_module" and node.target == layer:
                fit = (i for i, place in self.places.items() if i < index and place.size <= most)
                return max(fit, default=0)
        return None

    def part(self, model: nn.Module, start: int, stop: int | None, which: int) -> fx.GraphModule:
        """What ``model`` does from one place to another, or to its end; its layers are shared.

        But for the images, at place 0, it takes maps (N, models, ...); ``which`` are its own.
        """
        wanted = (model, start, stop, which)
        if wanted not in self._parts:
            self._parts[wanted] = fx.GraphModule(model, self._graph(*wanted[1:]))
        return self._parts[wanted]

    def _graph(self, start: int, stop: int | None, which: int) -> fx.Graph:
        graph, copies = fx.Graph(), {}
        maps = graph.placeholder("maps")
        layout = {"memory_format": self.places[start].layout} if start in self.places else {}
        if start:
            own = graph.call_method("select", (maps, 1, which))
            maps = graph.call_method("clone", (own,), layout)  # some layers write to their inputs
        else:
            maps = graph.call_method("contiguous", (maps,), layout)
        copies[self.nodes[start]] = maps

        def copy_of(node: fx.Node) -> fx.Node:
            if node not in copies:  # a parameter; whatever else is used comes behind the start
                copies[node] = graph.node_copy(node, copy_of)
            return copies[node]

        for node in self.nodes[start + 1 : stop + 1 if stop else None]:
            copies[node] = graph.node_copy(node, copy_of)
        if stop:
            graph.output(copies[self.nodes[stop]])
        return graph


class Reading:
    """Networks of one structure and what they read, from a cut on.

    Parameters
    ----------
    models : list of nn.Module
        Layers of them may be replaced in place meanwhile.
    data : Tensor, Dataset or DataLoader, optional
        Images. For a layer behind a cut they are not read again.
    cuts : Cuts, optional
        By default found from the last of the models.

    Attributes
    ----------
    models : list of nn.Module
        The rest of each model: what it does on ``data`` is what the whole one does on the images.
        Layers keep their names.
    data
        The images, or maps (N, models, ...).
    cuts : Cuts
    """

    def __init__(self, models: list[nn.Module], data, cuts: Cuts | None = None):
        self.models, self.data, self._place = models, data, 0
        self._whole = models, data
        sizes = [] if data is None else [len(images) for images in image_batches(data, BATCH)]
        self._most = MOST / max(1, sum(sizes)) / len(models)  # bytes an image
        if cuts is None and sizes:
            first = next(image_batches(data, BATCH)).to(device_of(models[-1]))
            cuts = Cuts.of(models[-1], first)
        self.cuts = cuts or Cuts([], {})

    def advance(self, layer: str) -> None:
        """Cut as closely before a layer as can be."""
        place = self.cuts.before(layer, self._most)
        if place is None or place < self._place:
            (self.models, self.data), self._place = self._whole, 0
        if place is not None and place > self._place:
            self.data = self._kept(place)
            self.models, self._place = self._parts(place, None), place

    def _parts(self, start: int, stop: int | None) -> list[nn.Module]:
        models = enumerate(self._whole[0])
        return [self.cuts.part(model, start, stop, which) for which, model in models]

    @torch.no_grad()
    def _kept(self, place: int) -> Tensor:
        """All maps at that place, (N, models, ...)."""
        parts, device = self._parts(self._place, place), device_of(self._whole[0][0])
        with evaluation_mode(nn.ModuleList(parts)):
            found = [
                torch.stack([part(images) for part in parts], 1)
                for images in (images.to(device) for images in image_batches(self.data, BATCH))
            ]
        return torch.cat(found)


class _Values(fx.Interpreter):
    """Runs a graph and notes the value of each node."""

    def __init__(self, model: nn.Module, graph: fx.Graph):
        super().__init__(model, graph=graph)
        self.noted = []

    def of(self, images: Tensor) -> list:
        self.run(images)
        return self.noted

    def run_node(self, node: fx.Node):
        self.noted.append(super().run_node(node))
        return self.noted[-1]


def _values_of(model, graph, pair: Tensor, layout) -> list[tuple] | None:
    """The graph's values for one and for two images; None if it does not do what the model does."""
    if layout != torch.contiguous_format and pair.dim() != 4:
        return None
    given = pair.contiguous(memory_format=layout)
    try:
        one, two = (_Values(model, graph).of(images) for images in (given[:1], given))
        want, found = model(pair), two[-1]
    except Exception:  # it takes so many images and no others, or no such layout
        return None
    same = isinstance(want, Tensor) and torch.allclose(want, found, rtol=1e-3, atol=1e-5)
    return list(zip(one, two, strict=True)) if same else None


def _place(one, two) -> Place | None:
    """Where the values of one and of two images are tensors (N, ...)."""
    if not isinstance(one, Tensor) or len(one.shape) < 2 or len(one) != 1:
        return None
    if two.shape != (2, *one.shape[1:]):
        return None
    last = two.dim() == 4 and two.is_contiguous(memory_format=torch.channels_last)
    return Place(one.nbytes, torch.channels_last if last else torch.contiguous_format)


def _alone(nodes: list[fx.Node]) -> list[int]:
    """Positions of the nodes behind which nothing that was computed before them is used."""
    order = {node: index for index, node in enumerate(nodes)}
    found, reach = [], -1  # the last user of what came before
    for index, node in enumerate(nodes[:-1]):
        last = max((order[user] for user in node.users), default=-1)
        if reach <= index < last and node.op != "get_attr":
            found.append(index)
        if node.op != "get_attr":
            reach = max(reach, last)
    return found
