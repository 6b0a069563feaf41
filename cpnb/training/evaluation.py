"""Loss and accuracy of a classifier, and the batches that training and evaluation run over."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from cpnb.training.recipe import BACKGROUND


def pick_device() -> torch.device:
    """The fastest device there is: CUDA, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
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
    background: int | None = BACKGROUND,
    batch_size: int = 256,
) -> float:
    """Share of samples, 0 to 1, whose highest logit is that of their label.

    The class `background`, where it is the model's last one, takes no part, as in the paper: its
    logit is left out of the arg-max and samples labelled with it are not counted. In models with
    other numbers of classes all take part (None: in any model).

    Parameters
    ----------
    model : nn.Module
        Maps images (N, C, H, W) to logits (N, classes).
    loader : Dataset or DataLoader
        Pairs (images, integer labels).
    device : torch.device or str, optional
        Where to compute; by default where the model is.
    """
    return evaluate(model, loader, device, background, batch_size)[1]


def topk_accuracy(
    model: nn.Module, loader, k: tuple[int, ...] = (1, 5), device=None, batch_size: int = 32
) -> dict[int, float]:
    """For each k the share of samples, 0 to 1, whose label is among the k highest logits.

    ImageNet's top-1 and top-5; all classes take part.
    """
    home = device_of(model)
    device = torch.device(device) if device is not None else home
    hits, seen = dict.fromkeys(k, 0), 0
    try:
        model.to(device)
        with evaluation_mode(model), torch.inference_mode():
            for images, labels in batches(loader, batch_size):
                images, labels = images.to(device), labels.to(device)
                best = logits_of(model, images, labels).topk(max(k), dim=1).indices
                found = best == labels[:, None]
                hits = {n: hits[n] + int(found[:, :n].sum()) for n in k}
                seen += len(labels)
    finally:
        model.to(home)
    if not seen:
        raise ValueError("nothing to evaluate: no samples")
    return {n: hits[n] / seen for n in k}


def evaluate(
    model: nn.Module,
    loader,
    device=None,
    background: int | None = BACKGROUND,
    batch_size: int = 256,
) -> tuple[float, float]:
    """Mean cross-entropy (nats) over all samples, and the accuracy as `accuracy` counts it.

    The model is afterwards on the device and in the mode that it was in.
    """
    home = device_of(model)
    device = torch.device(device) if device is not None else home
    loss = correct = counted = seen = 0
    try:
        model.to(device)
        with evaluation_mode(model), torch.inference_mode():
            for images, labels in batches(loader, batch_size):
                images, labels = images.to(device), labels.to(device)
                logits = logits_of(model, images, labels)
                loss += F.cross_entropy(logits, labels, reduction="sum").item()
                hits, number = count_hits(logits, labels, background)
                correct, counted, seen = correct + hits, counted + number, seen + len(labels)
    finally:
        model.to(home)
    if not counted:
        raise ValueError(f"nothing to evaluate: {seen} samples, none outside the background class")
    return loss / seen, correct / counted


def logits_of(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The model's logits (N, classes) for labels (N,); a clear error where they do not match."""
    logits = model(images)
    if logits.ndim != 2:
        raise ValueError(
            f"the model gives outputs of shape {tuple(logits.shape)} for images of shape "
            f"{tuple(images.shape)}; a classifier's are (N, classes)"
        )
    if labels.numel() and (labels.min() < 0 or labels.max() >= logits.shape[1]):
        raise ValueError(
            f"labels run from {labels.min().item()} to {labels.max().item()}, "
            f"but the model has classes 0 to {logits.shape[1] - 1}"
        )
    return logits


def count_hits(logits: Tensor, labels: Tensor, background: int | None) -> tuple[int, int]:
    """How many of the labels other than the background are predicted, and how many there are.

    A background class is the last one: a net with more or fewer classes than that has none.
    """
    if background != logits.shape[1] - 1:
        background = None
    if background is not None:
        logits = logits.index_fill(1, torch.tensor([background], device=logits.device), -torch.inf)
    hits = logits.argmax(1) == labels
    if background is None:
        return hits.sum().item(), len(labels)
    counted = labels != background
    return (hits & counted).sum().item(), counted.sum().item()


def batches(
    data, batch_size: int, shuffle: bool = False, seed: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (images, labels) of a data set or a DataLoader; the last one may be smaller.

    Data held in memory (`.images` and `.labels`, or a TensorDataset of two tensors) are cut
    directly, without touching single samples. The order is a function of the seed alone; that of a
    DataLoader is its own.
    """
    tensors = in_memory(data)
    if tensors is None:
        yield from _loader(data, batch_size, shuffle, seed)
    elif shuffle:
        order = torch.randperm(len(tensors[1]), generator=torch.Generator().manual_seed(seed))
        for chosen in order.split(batch_size):
            yield tensors[0][chosen], tensors[1][chosen]
    else:
        yield from zip(*(tensor.split(batch_size) for tensor in tensors), strict=True)


def count_batches(data, batch_size: int) -> int:
    """How many batches `batches` gives."""
    tensors = in_memory(data)
    if tensors is not None:
        return -(-len(tensors[1]) // batch_size)
    return len(data) if isinstance(data, DataLoader) else -(-len(data) // batch_size)


def in_memory(data) -> tuple[Tensor, Tensor] | None:
    """The images and labels of a data set that holds them as two tensors, else None."""
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        return data.tensors
    images, labels = getattr(data, "images", None), getattr(data, "labels", None)
    if isinstance(images, Tensor) and isinstance(labels, Tensor):
        return images, labels
    return None


def _loader(data, batch_size: int, shuffle: bool, seed: int) -> DataLoader:
    if isinstance(data, DataLoader):
        if data.generator is not None:
            data.generator.manual_seed(seed)  # else a resumed run would shuffle differently
        return data
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise TypeError(f"expected a Dataset or a DataLoader, got {type(data).__name__}")
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(data, batch_size, shuffle=shuffle, generator=generator)
