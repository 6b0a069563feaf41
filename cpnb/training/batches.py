"""Batches of images and labels in the one form that training and evaluation work on.

Data come as people have them: a `Dataset` or a `DataLoader`, pairs or dicts, class numbers or
one-hot rows. What has one meaning is read as that; anything else is an error that says what came
and what is accepted. A data set's own ``__getitem__`` is always asked: only this package's data
sets, and PyTorch's of plain tensors, are cut directly.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    IterableDataset,
    Subset,
    TensorDataset,
)

from cpnb.data.characters import CharacterDataset
from cpnb.data.images import ImageDataset

IMAGES = ("image", "images", "img", "pixel_values", "input", "inputs", "x")
LABELS = ("label", "labels", "target", "targets", "y")
ACCEPTED = (
    f"accepted are pairs (images, labels), or dicts with one of the keys {', '.join(IMAGES)} and "
    f"one of {', '.join(LABELS)}"
)


def batches(
    data, batch_size: int, shuffle: bool = False, seed: int = 0, name: str = "loader",
    part: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """Batches (images, labels) of a data set or a DataLoader; the last one may be smaller.

    The order is a function of the seed alone; that of a DataLoader is its own. Empty batches are
    left out.

    Parameters
    ----------
    data
        A Dataset, map-style or iterable, or a DataLoader, of what `_parts` reads.
    name : str
        What errors call the data.
    part : (int, int)
        The number of this process, from 0, and of all that share each batch. Of a data set only
        the own share is loaded, of a DataLoader the whole batch.

    Yields
    ------
    images : Tensor, shape (N, ...)
    labels : Tensor, shape (N,), int64

    Raises
    ------
    TypeError, ValueError
        It is no data set, or gives no images with one class number each; or a shuffled batch is
        smaller than the number of processes.
    """
    tensors = in_memory(data)
    if tensors is not None:
        labels = class_numbers(tensors[1], name)
        yield from _cut([tensors[0], labels], batch_size, shuffle, seed, part)
        return
    loader = _loader(data, batch_size, shuffle, seed, name, part)
    whole = loader is data or isinstance(data, IterableDataset)
    for batch in loader:
        images, labels = _parts(batch, name)
        labels = class_numbers(labels, name)
        if len(images) != len(labels):
            raise ValueError(f"{name} gives {len(images)} images with {len(labels)} labels")
        if whole and len(labels):
            images, labels = (share_of(of, part, even=shuffle) for of in (images, labels))
        if len(labels):
            yield images, labels


def image_batches(
    data, batch_size: int, shuffle: bool = False, seed: int = 0, name: str = "loader"
) -> Iterator[Tensor]:
    """The images alone, as `batches` gives them; labels may be of any form, or missing.

    A tensor (N, ...) is data, too.
    """
    tensors = (data,) if isinstance(data, Tensor) and data.ndim > 1 else in_memory(data)
    if tensors is not None:
        for (images,) in _cut([tensors[0]], batch_size, shuffle, seed):
            yield images
        return
    for batch in _loader(data, batch_size, shuffle, seed, name):
        images, _ = _parts(batch, name)
        if len(images):
            yield images


def count_batches(data, batch_size: int, name: str = "loader") -> int:
    """How many batches `batches` gives, unless some are empty."""
    try:
        length = len(data)
    except TypeError:
        kind = type(getattr(data, "dataset", data)).__name__
        raise TypeError(
            f"{name} must have a length, from which the course of the learning rate follows; "
            f"{kind} has none: give it a __len__, or take a map-style Dataset"
        ) from None
    return length if isinstance(data, DataLoader) else -(-length // batch_size)


def in_memory(data) -> tuple[Tensor, Tensor] | None:
    """The images and labels of a data set that is nothing but two tensors, else None."""
    if isinstance(data, TensorDataset) and _gives_what_it_holds(data, TensorDataset):
        return data.tensors if len(data.tensors) == 2 else None
    for kind in (CharacterDataset, ImageDataset):
        if isinstance(data, kind) and _gives_what_it_holds(data, kind):
            if len(data.images) != len(data.labels):
                raise ValueError(
                    f"a {kind.__name__} must have as many labels as images, got "
                    f"{len(data.labels)} labels and {len(data.images)} images"
                )
            return data.images, data.labels
    return None


def background_of(data) -> int | None:
    """The class that stands for no class, in data of this package that have one."""
    if isinstance(data, CharacterDataset):
        return data.background
    if isinstance(data, (DataLoader, Subset)):
        return background_of(data.dataset)
    if isinstance(data, ConcatDataset):
        found = {background_of(part) for part in data.datasets}
        if len(found) > 1:
            told = ", ".join(sorted(map(str, found)))
            raise ValueError(
                f"the joined data sets do not agree which class is the background ({told}); give "
                "background= its number"
            )
        return found.pop() if found else None
    return None


def class_numbers(labels, name: str = "loader") -> Tensor:
    """Labels as int64 (N,), of integers (N,) or (N, 1) or of one-hot rows (N, classes)."""
    if isinstance(labels, (list, np.ndarray)):
        try:
            labels = torch.as_tensor(labels)
        except (TypeError, ValueError):
            raise _no_numbers(f"a {type(labels).__name__} of something else", name) from None
    if not isinstance(labels, Tensor):
        raise _no_numbers("none" if labels is None else f"a {type(labels).__name__}", name)
    whole = not (labels.is_floating_point() or labels.is_complex())
    if labels.ndim == 2 and labels.shape[1] == 1 and whole:
        labels = labels[:, 0]
    if labels.ndim == 1 and whole:
        return labels.long()
    if labels.ndim == 2 and labels.shape[1] > 1 and _one_hot(labels):
        return labels.argmax(1)
    told = f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}"
    raise _no_numbers(told, name)


def _no_numbers(told: str, name: str) -> Exception:
    return (ValueError if "shape" in told else TypeError)(
        f"the labels of {name} must be class numbers, integers of shape (N,) or (N, 1), or one-hot "
        f"rows (N, classes); got {told}"
    )


def _one_hot(rows: Tensor) -> bool:
    once, elsewhere = (rows == 1).sum(1), (rows != 0).sum(1)
    return bool(((once == 1) & (elsewhere == 1)).all())


def _gives_what_it_holds(data, kind: type) -> bool:
    """Whether its items are its tensors' rows, as ``kind`` gives them: no subclass changes them."""
    own = ("__getitem__", "__getitems__", "__len__")
    return all(getattr(type(data), what, None) is getattr(kind, what, None) for what in own)


def share_of(rows: Tensor, part: tuple[int, int], even: bool = False) -> Tensor:
    """Every n-th row from the process's own on; all processes must have one where it is `even`."""
    rank, size = part
    if even and len(rows) < size:
        raise ValueError(
            f"a batch has {len(rows)} samples for {size} processes; choose another batch_size, so "
            "that the last one has more, or launch fewer"
        )
    return rows if size == 1 else rows[rank::size]


def _cut(
    tensors: list[Tensor], batch_size: int, shuffle: bool, seed: int, part=(0, 1)
) -> Iterator[list]:
    """Batches of tensors in memory, without touching single samples."""
    if not len(tensors[0]):
        return
    if shuffle:
        order = _order(len(tensors[0]), seed)
        for chosen in order.split(batch_size):
            chosen = share_of(chosen, part, even=True)
            yield [tensor[chosen] for tensor in tensors]
    else:
        for rows in zip(*(tensor.split(batch_size) for tensor in tensors), strict=True):
            yield [share_of(tensor, part) for tensor in rows]


def _order(number: int, seed: int) -> Tensor:
    return torch.randperm(number, generator=torch.Generator().manual_seed(seed))


def _parts(batch, name: str) -> tuple[Tensor, Tensor | None]:
    """Images and labels, where there are any, of a batch: a tensor, a pair or a dict."""
    images = labels = None
    if isinstance(batch, Tensor):
        images, told = batch, ""
    elif isinstance(batch, Mapping):
        told = f"dicts with the keys {', '.join(map(str, batch))}"
        images, labels = (_only(batch, keys) for keys in (IMAGES, LABELS))
    elif isinstance(batch, (tuple, list)):
        told = f"a {type(batch).__name__} of {len(batch)}"
        if len(batch) in (1, 2):
            images, labels = (*batch, None)[:2]
            told += f" that begins with a {type(images).__name__}"
    else:
        told = f"a {type(batch).__name__}"
    if not isinstance(images, Tensor) or not images.ndim:
        raise TypeError(f"{name} gives batches of an unknown form, {told}; {ACCEPTED}")
    return images, labels


def _only(batch: Mapping, keys) -> object | None:
    """The entry under the one of these keys that there is; None for none, or several."""
    found = [batch[key] for key in keys if key in batch]
    return found[0] if len(found) == 1 else None


def _loader(data, batch_size: int, shuffle: bool, seed: int, name: str, part=(0, 1)) -> DataLoader:
    if isinstance(data, DataLoader):
        if data.generator is not None:
            data.generator.manual_seed(seed)  # else a resumed run would shuffle differently
        return data
    if isinstance(data, IterableDataset):
        return DataLoader(data, batch_size)  # its order is its own
    indexed = hasattr(data, "__len__") and hasattr(data, "__getitem__")
    pair = isinstance(data, (tuple, list)) and len(data) == 2
    tensors = pair and all(isinstance(part, Tensor) for part in data)
    if not indexed or tensors or isinstance(data, (Mapping, str)):
        hint = " of tensors; torch.utils.data.TensorDataset(*it) is one" if tensors else ""
        raise TypeError(
            f"{name} must be a Dataset or a DataLoader, got {type(data).__name__}{hint}"
        )
    order = _order(len(data), seed) if shuffle else torch.arange(len(data))
    shares = [share_of(chosen, part, shuffle).tolist() for chosen in order.split(batch_size)]
    return DataLoader(data, batch_sampler=[share for share in shares if share])
