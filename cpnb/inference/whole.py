"""A network as a whole in the runtime that is the fastest for it, in place of its own forward."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cpnb.inference.fused.module import plain_batch
from cpnb.inference.fused.watch import Watch
from cpnb.inference.runtimes import Run


class Whole:
    """Stands as a model's ``forward``: all of it in a runtime, or else the model layer by layer.

    The runtime serves float32 input of the one shape that it was made for, with as many threads,
    on the CPU. For other input, where a gradient is wanted, in training mode, under autocast, when
    traced or exported, with hooks, and from when a weight has changed or moved, it is the model's
    own forward; so it is in a copy, and in what was saved and loaded. It may be called from several
    threads.

    Parameters
    ----------
    model : nn.Module
        Whose forward it stands for.
    shape : tuple of int
        Of the input that the runtime takes.
    run : callable
        The model with its present weights in a runtime, see `cpnb.inference.runtimes.prepared`.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, ...], run: Run):
        self.model, self.shape, self.threads = model, tuple(shape), torch.get_num_threads()
        weights = list(model.parameters())
        self._made = run, Watch(model), weights, _addresses(weights)

    def __call__(self, *args, **kwargs):
        """As the model's own forward."""
        if len(args) == 1 and not kwargs and self._takes(args[0]):
            run = self._current()
            if run:
                return run(args[0])
        return type(self.model).forward(self.model, *args, **kwargs)

    @property
    def __code__(self):
        """Of the model's own forward, which is what ``torch.export`` tells of."""
        return type(self.model).forward.__code__

    def _takes(self, x) -> bool:
        return (
            isinstance(x, Tensor)
            and plain_batch(x)
            and x.is_cpu
            and x.dtype == torch.float32
            and tuple(x.shape) == self.shape
            and torch.get_num_threads() == self.threads
        )

    def _current(self) -> Run | None:
        """The runtime, if it still does what the model would."""
        made = self._made
        if made is None or self.model.training:
            return None
        run, watch, weights, addresses = made
        if watch.listened() or watch.trained():
            return None
        if watch.changed() or _addresses(weights) != addresses:
            self._made = None
            return None
        return run

    def of(self, twin: nn.Module) -> Whole | None:
        """The same for a copy of the model, just made; None where it has lost its runtime."""
        run = self._current()
        return Whole(twin, self.shape, run) if run else None

    def __getstate__(self):
        return self.__dict__ | {"_made": None}  # a runtime cannot be copied


def _addresses(weights: list[Tensor]) -> list[int]:
    """Those of weights that are moved or converted change, though nothing counts it."""
    return [weight.data_ptr() for weight in weights]
