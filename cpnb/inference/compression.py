"""Compression without labels: a plan carried out layer after layer.

Each layer is decomposed and fitted to the outputs of the one it replaces, on the inputs that the
layers before it, compressed already, now give (the data reconstruction of Jaderberg et al., 2014,
in the asymmetric form of Zhang et al., 2016); a layer that stays dense is refitted to make up for
those before it. As far as the model can be traced, what counts is the residual sum that a layer
enters and the ReLU behind it (`cpnb.training.targets`). Of the data moments are kept, and, so that
no pass begins at the images again, at most 1 GiB of maps (`cpnb.training.cuts`).
Means are taken up by a bias that the fitted layers get, so that BatchNorm's statistics hold as they
are: estimated anew on a few hundred images they would be worse than those of the whole training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from cpnb.inference.plan import Plan
from cpnb.inference.planning import require_images
from cpnb.layers.copies import copied, require_own_functions
from cpnb.layers.replacing import become, leave_shortcuts, warn_of_ties
from cpnb.nets.factored import load_factored, save_factored
from cpnb.nets.weights import read_weights
from cpnb.training.cuts import Reading
from cpnb.training.importance import output_metrics
from cpnb.training.layer_fit import LayerFit, Steps, refit
from cpnb.training.seen import find_part
from cpnb.training.signature import same_signature, signature

# A small layer is fitted until it converges: after 100 steps its error may still fall by a tenth.
STEPS, LARGE_STEPS = Steps(solver=50, fit=800), Steps(solver=50, fit=30)


def compress(
    model: nn.Module,
    plan: Plan,
    data=None,
    *,
    checkpoint=None,
    progress: bool = True,
    **solver_options,
) -> nn.Module:
    """Return a compressed copy of ``model``; no label is read and nothing is trained.

    Layers that ``plan.ranks`` names are factored. With data, plain layers that stay dense behind
    the first factored one are refitted too, unless they are large or the data few: their weights
    and biases change. Of a CP layer's outputs those count more that matter more to the class
    probabilities (Fisher information; a backward pass over up to 1,024 images).

    Parameters
    ----------
    model : nn.Module
        Left as it was.
    plan : Plan
        From :func:`cpnb.plan`; its ranks may have been edited.
    data : Tensor, Dataset or DataLoader, optional
        A few hundred images, with labels, which are not used, or without. Without data, layers are
        fitted to their kernels alone.
    checkpoint : path-like, optional
        A file that is written after each layer; the same call takes up an interrupted one from it.
    progress : bool
        Show a progress bar.
    **solver_options
        Of :func:`cpnb.cp_nls`, for the CP layers.

    Returns
    -------
    nn.Module
        In evaluation mode; :func:`cpnb.finetune` may follow, :func:`cpnb.save_factored` keeps it.

    Raises
    ------
    ValueError
        The plan factors no layer, or one that it does not know or the model does not have; data
        without images; a checkpoint of another model or plan.
    """
    require_images(data)
    names = _in_order(model, plan, data)
    asked = {"steps": [STEPS, LARGE_STEPS], "outputs": "weighed"} | solver_options
    job = _Job.of(model, plan, names, asked, checkpoint)
    small, done = job.resumed(model)
    reading, metrics = Reading([small, model], data), {}
    if data is not None:
        left = [n for n in names[done:] if n in plan.ranks and plan.layers[n].method == "nls"]
        metrics = output_metrics(model, data, left)
    for name in tqdm(names[done:], "compress", len(names), initial=done, disable=not progress):
        reading.advance(name)
        if name in plan.ranks:
            method = plan.layers[name].method
            fit = LayerFit(*reading.models, name, method, reading.data, metrics.get(name))
            steps = LARGE_STEPS if fit.large else STEPS
            options = solver_options if method == "nls" else {}
            factored, _ = fit.at(plan.ranks[name], steps, **options)
            become(small.get_submodule(name), factored, name)
        else:
            refit(*reading.models, name, reading.data)
        job.save(small, done := done + 1)
    leave_shortcuts(small)
    return small.eval()


def _in_order(model: nn.Module, plan: Plan, data) -> list[str]:
    """The layers to work on in the order in which the plan saw them run.

    With data, dense layers behind the first factored one are refitted, where they are plain.
    """
    if not plan.ranks:
        raise ValueError("plan.ranks is empty: no layer is to be factored")
    known = [name for name, layer in plan.layers.items() if layer.method]
    wrong = [name for name in plan.ranks if name not in known]
    if wrong:
        raise ValueError(f"plan.ranks names {', '.join(wrong)}; it may name {', '.join(known)}")
    for name in plan.ranks:
        module, kernel = find_part(model, name, "model"), plan.layers[name].kernel
        if tuple(getattr(module, "weight", torch.empty(0)).shape) != kernel:
            raise ValueError(f"plan was made for another model: its layer {name!r} has {kernel}")
    order = list(plan.layers)
    behind = order[min(order.index(name) for name in plan.ranks) :]
    refitted = {name for name in behind if data is not None and plan.layers[name].method}
    return [name for name in behind if name in plan.ranks or name in refitted]


@dataclass
class _Job:
    """What is to be done, and the file that tells how far it has come."""

    path: Path | None
    layers: list  # of [name, method, rank], in order
    options: str
    model: list[float]  # its signature

    @classmethod
    def of(cls, model, plan: Plan, names, options: dict, path) -> _Job:
        layers = [[name, plan.layers[name].method, plan.ranks.get(name)] for name in names]
        whole = signature([p for p in model.parameters() if p.numel()])
        return cls(None if path is None else Path(path), layers, repr(options), whole)

    def resumed(self, model: nn.Module) -> tuple[nn.Module, int]:
        """A copy of the model, compressed as far as the file says, and how many layers are."""
        if self.path is None or not self.path.exists():
            small = copied(model)
            warn_of_ties(small, [name for name, _, rank in self.layers if rank])
            require_own_functions(small, model)
            return small, 0
        told = read_weights(self.path)[1].get("compress", {})
        same = told.get("layers") == self.layers and told.get("options") == self.options
        if not same or not same_signature(told.get("model", []), self.model):
            raise ValueError(
                f"checkpoint {self.path} is of another model, plan or options; remove it"
            )
        return load_factored(model, self.path), told["done"]

    def save(self, small: nn.Module, done: int) -> None:
        if self.path is not None:
            told = {"layers": self.layers, "options": self.options, "model": self.model}
            save_factored(small, self.path, {"compress": told | {"done": done}})
