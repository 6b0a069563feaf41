"""Loss and accuracy of a classifier."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpnb.runs.machine import team_size
from cpnb.training.batches import background_of, batches
from cpnb.training.team import Alone


def pick_device() -> torch.device:
    """The fastest device there is: CUDA, else MPS, else the CPU.

    Of several processes that were launched to train together each has a GPU of its own.
    """
    if torch.cuda.is_available():
        own = os.environ.get("LOCAL_RANK") if team_size() > 1 else None
        return torch.device("cuda" if own is None else f"cuda:{own}")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are (the CPU if it has none)."""
    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None else torch.device("cpu")


@contextmanager
def evaluation_mode(model: nn.Module):
    """The model in evaluation mode within the block; each part's own mode is restored after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def accuracy(
    model: nn.Module,
    loader,
    device=None,
    background: int | None = None,
    batch_size: int = 256,
) -> float:
    """Share of samples, 0 to 1, whose highest logit is that of their label.

    Parameters
    ----------
    model : nn.Module
        Maps images (N, C, H, W) to logits (N, classes), or to an output that names them `logits`.
    loader : Dataset or DataLoader
        Pairs (images, class numbers), or dicts of them; labels may also be (N, 1) or one-hot.
    device : torch.device or str, optional
        Where to compute; by default where the model is.
    background : int, optional
        A class that takes no part: its logit is left out of the arg-max, and samples labelled with
        it are not counted. By default what the data set says: of `cpnb.CharacterDataset` class 36,
        as in the paper, where the model has it (a TensorDataset of the same says nothing of it).
        In any other data all classes take part.
    batch_size : int
        For data given as a data set; a DataLoader has its own.

    Raises
    ------
    TypeError, ValueError
        There is nothing to count; labels are no class numbers of the model's, its outputs no
        logits, or NaN.
    """
    return evaluate(model, loader, device, background, batch_size)[1]


def topk_accuracy(
    model: nn.Module,
    loader,
    k: int | tuple[int, ...] = (1, 5),
    device=None,
    batch_size: int = 32,
    background: int | None = None,
) -> dict[int, float]:
    """For each k the share of samples, 0 to 1, whose label is among the k highest logits.

    ImageNet's top-1 and top-5. Parameters and errors are those of `accuracy`, which is top-1.
    """
    wanted = tuple(k) if isinstance(k, Iterable) else (k,)
    if not wanted or not all(_is_whole(n) and n >= 1 for n in wanted):
        raise ValueError(f"k must be one or more integers of at least 1, got {k!r}")
    hits, counted, seen = dict.fromkeys(wanted, 0), 0, 0

    def take(logits: Tensor, labels: Tensor) -> None:
        nonlocal hits, counted, seen
        classes, seen = logits.shape[1], seen + len(labels)
        if max(wanted) > classes:
            raise ValueError(f"k={k!r}: the model has only {classes} classes")
        logits, labels = without(background_class(background, loader, classes), logits, labels)
        found = logits.topk(max(wanted), dim=1).indices == labels[:, None]
        hits = {n: hits[n] + int(found[:, :n].sum()) for n in wanted}
        counted += len(labels)

    _walk(model, loader, device, batch_size, take)
    _require_samples(seen, counted, "loader")
    return {n: hits[n] / counted for n in wanted}


def evaluate(
    model: nn.Module,
    loader,
    device=None,
    background: int | None = None,
    batch_size: int = 256,
    name: str = "loader",
    team: Alone | None = None,
) -> tuple[float, float]:
    """Mean cross-entropy (nats) over all samples, and the accuracy as `accuracy` counts it.

    The model is afterwards on the device and in the mode that it was in. Errors call the data by
    ``name``. Of a ``team`` each process evaluates its share of the samples.
    """
    team = team or Alone()
    loss = correct = counted = seen = 0

    def take(logits: Tensor, labels: Tensor) -> None:
        nonlocal loss, correct, counted, seen
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        left_out = background_class(background, loader, logits.shape[1])
        hits, number = count_hits(logits, labels, left_out)
        correct, counted, seen = correct + hits, counted + number, seen + len(labels)

    _walk(model, loader, device, batch_size, take, name, team.part)
    loss, correct, counted, seen = team.total(loss, correct, counted, seen)
    _require_samples(seen, counted, name)
    return loss / seen, correct / counted


def _walk(
    model: nn.Module, loader, device, batch_size: int, take: Callable, name: str = "loader",
    part: tuple[int, int] = (0, 1),
) -> None:  # fmt: skip
    """Hand the model's logits and the labels of each batch to ``take``."""
    home = device_of(model)
    device = torch.device(device) if device is not None else home
    try:
        model.to(device)
        with evaluation_mode(model), torch.inference_mode():
            for images, labels in batches(loader, batch_size, name=name, part=part):
                images, labels = images.to(device), labels.to(device)
                logits = logits_of(model, images, labels, name)
                if logits.isnan().any():  # the arg-max of NaN is some class all the same
                    finite = "finite: look at its weights" if _finite(images) else "not finite"
                    raise ValueError(f"the model gives NaN; the images of {name} are {finite}")
                take(logits, labels)
    finally:
        model.to(home)


def _finite(images: Tensor) -> bool:
    return bool(images.isfinite().all())


def _require_samples(seen: int, counted: int, name: str) -> None:
    if not counted:
        raise ValueError(
            f"nothing to evaluate: {name} has {seen} samples, none outside the background class"
        )


def logits_of(model: nn.Module, images: Tensor, labels: Tensor, name: str = "loader") -> Tensor:
    """The model's logits (N, classes) for labels (N,); a clear error where they do not match."""
    logits = logits_in(model(images))
    if logits.ndim != 2 or len(logits) != len(labels):
        raise ValueError(
            f"the model gives outputs of shape {tuple(logits.shape)} for images of shape "
            f"{tuple(images.shape)}; a classifier's are (N, classes)"
        )
    if labels.numel() and (labels.min() < 0 or labels.max() >= logits.shape[1]):
        raise ValueError(
            f"{name}: labels run from {labels.min().item()} to {labels.max().item()}, "
            f"but the model has classes 0 to {logits.shape[1] - 1}"
        )
    return logits


def logits_in(output) -> Tensor:
    """The logits of a model's output: a tensor, or what names them `logits`."""
    logits = output.get("logits") if isinstance(output, Mapping) else output
    logits = getattr(logits, "logits", logits)  # GoogLeNet's in training, and many others'
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the model must give logits (N, classes), or an output that names them `logits`; got "
            f"a {type(output).__name__}"
        )
    return logits


def background_class(given: int | None, data, classes: int) -> int | None:
    """The class that takes no part: the given one, else what the data say, if the model has it."""
    if given is None:
        own = background_of(data)
        return own if own is not None and own < classes else None
    if not _is_whole(given) or not 0 <= given < classes:
        raise ValueError(
            f"background must be None or one of the model's classes 0 to {classes - 1}, "
            f"got {given!r}"
        )
    return given


def _is_whole(value) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def without(background: int | None, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and labels of the samples of other classes; the background's logit is the lowest."""
    if background is None:
        return logits, labels
    logits = logits.index_fill(1, torch.tensor([background], device=logits.device), -torch.inf)
    return logits[labels != background], labels[labels != background]


def count_hits(logits: Tensor, labels: Tensor, background: int | None) -> tuple[int, int]:
    """How many of the labels other than the background are predicted, and how many there are."""
    logits, labels = without(background, logits, labels)
    return (logits.argmax(1) == labels).sum().item(), len(labels)
