"""Data sets by name: characters, 24x24 grey, 36 classes (0-9, A-Z without case), and images.

``load_dataset(name, split, root=None, **options)`` with name

- "characters": drawn by :mod:`cpnb.data.glyphs` from open fonts; needs nothing from outside;
- "chars74k": real scene characters in the public layout ``English/Img/{GoodImg,BadImag}/Bmp``;
- "emnist": handwriting, read by torchvision;
- "cifar10", "imagenet-sample": colour images, by :mod:`cpnb.data.images`.

Each patch of a character has zero mean and unit standard deviation, the input CharNet was trained
for (Jaderberg et al., ECCV 2014). Files are looked for under `root`, else the environment
variable CPNB_DATA, else ``data/downloads`` of this repository. Image files count by their endings,
in either case, and are read as they are seen; see :mod:`cpnb.data.files`.
"""

import hashlib
import inspect
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from cpnb.data import glyphs, images
from cpnb.data.distortions import PATCH, augment, normalise
from cpnb.data.files import UNREADABLE, image_files, read_image, warn_of_unreadable, what_it_is
from cpnb.data.glyphs import BACKGROUND, CLASSES, SPLITS
from cpnb.data.sampling import chosen_rows
from cpnb.runs.places import data_folder

__all__ = [
    "BACKGROUND",
    "CLASSES",
    "CharacterDataset",
    "augment",
    "concatenate",
    "contact_sheet",
    "hash_split",
    "load_dataset",
]

_CHARACTERS_SIZE = {"train": 20_000, "validation": 2_000, "test": 2_000}


class CharacterDataset(Dataset):
    """Patches and labels in memory; items are (float32 tensor (1, 24, 24), int).

    Attributes
    ----------
    images : Tensor, shape (N, 1, 24, 24), float32, each of zero mean and unit standard deviation
    labels : Tensor, shape (N,), int64; 36 marks background patches, where there are any
    classes : list of 36 str
    good : Tensor, shape (N,), bool
        True where a Chars74K image comes from GoodImg; True throughout in other data sets.
    background : 36
        The class that is left out where accuracy is counted, as in the paper.
    """

    background = BACKGROUND

    def __init__(self, images, labels, good=None):
        self.images, self.labels, self.classes = images, labels, list(CLASSES)
        self.good = torch.ones(len(labels), dtype=torch.bool) if good is None else good

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index], int(self.labels[index])

    def subset(self, index):
        """Return the data set of the rows that `index` (bool or integer tensor) selects."""
        return CharacterDataset(self.images[index], self.labels[index], self.good[index])

    def sample(self, size, seed=0):
        """Return `size` rows chosen at random without repetition, the same for the same seed."""
        return self.subset(chosen_rows(len(self), size, seed))


def concatenate(*datasets):
    """Join data sets, for instance rendered and real characters to train on."""
    return CharacterDataset(
        *(torch.cat([getattr(d, part) for d in datasets]) for part in ("images", "labels", "good"))
    )


def contact_sheet(dataset, rows=4):
    """Lay out the first `rows` patches of each class, one class a column.

    Returns
    -------
    Tensor, shape (rows * 24, 36 * 24)
        Normalised grey values; zero where a class has fewer patches.
    """
    sheet = torch.zeros(rows, PATCH, len(CLASSES), PATCH)
    for label in range(len(CLASSES)):
        for row, index in enumerate(torch.nonzero(dataset.labels == label)[:rows, 0]):
            sheet[row, :, label] = dataset.images[index, 0]
    return sheet.view(rows * PATCH, len(CLASSES) * PATCH)


def load_dataset(name, split, root=None, **options):
    """Load a data set.

    Parameters
    ----------
    name : "characters", "chars74k", "emnist", "cifar10" or "imagenet-sample"
    split : "train", "validation" or "test"
    root : path, optional
        Folder of the files; default: the environment variable CPNB_DATA, else ``data/downloads``.
        For "chars74k" the folder that holds ``English/`` or one that holds ``chars74k/English/``;
        for "emnist" the folder that holds ``EMNIST/raw/``. Not used by "characters". For the others
        see :mod:`cpnb.data.images`; ImageNet itself, in the sample's layout, takes the sample's
        name.
    **options
        All: ``size`` (patches; default 20,000 train and 2,000 validation and test for "characters",
        else every one there is) and ``seed`` (0).
        "characters": ``background`` (0.0, fraction with label 36), ``lowercase`` (0.2).
        "chars74k": ``which`` ("all", "good" or "bad": GoodImg, BadImag).
        "emnist": ``download`` (False; torchvision checks the archive's hash).
        "imagenet-sample": ``complete`` (False; whether a class without images is an error).

    Returns
    -------
    CharacterDataset, or ImageDataset ("cifar10") or ImageFiles ("imagenet-sample")

    Raises
    ------
    ValueError
        Unknown name, split or value of an option.
    TypeError
        Unknown option.
    FileNotFoundError
        The files are not there; the message says where they were looked for.
    OSError
        An archive or file is broken; the message says which, and what it seems to be. Single
        images that cannot be read are left out instead, and counted in a warning.
    """
    if name not in _LOADERS:
        raise ValueError(f"name: got {name!r}, known data sets are {', '.join(_LOADERS)}")
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}, accepted are {', '.join(SPLITS)}")
    loader = _LOADERS[name]
    known = list(inspect.signature(loader).parameters)[2:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(
            f"unknown option {', '.join(unknown)} for {name!r}, accepted are {', '.join(known)}"
        )
    return loader(split, root, **options)


def _load_characters(split, root, size=None, seed=0, background=0.0, lowercase=0.2):
    size = _CHARACTERS_SIZE[split] if size is None else size
    return CharacterDataset(*glyphs.render(size, split, seed, background, lowercase))


def hash_split(filename):
    """Return the split of a file by its name alone: 70% train, 10% validation, 20% test.

    The first 8 bytes of SHA-256 of the name, modulo 10: 0-6 train, 7 validation, 8-9 test.
    Independent of machine, folder and order, and of capitals, which copying may change; GoodImg and
    BadImag files of one name share a split.
    """
    digest = hashlib.sha256(Path(filename).name.lower().encode("utf-8")).digest()
    bucket = int.from_bytes(digest[:8], "big") % 10
    return "train" if bucket < 7 else "validation" if bucket == 7 else "test"


def data_root(root=None) -> Path:
    """Where data sets lie: ``root``, else the environment variable CPNB_DATA, else downloads."""
    return Path(root).expanduser() if root else data_folder()


def _load_chars74k(split, root, size=None, seed=0, which="all"):
    parts = {"all": ("GoodImg", "BadImag"), "good": ("GoodImg",), "bad": ("BadImag",)}
    if which not in parts:
        raise ValueError(f"which: got {which!r}, accepted are {', '.join(parts)}")
    folder = _find_chars74k(data_root(root))
    patches, labels, good, unreadable = [], [], [], []
    for part in parts[which]:
        for path, label in _chars74k_files(folder / part / "Bmp"):
            if hash_split(path.name) != split:
                continue
            try:
                patches.append(_read_patch(path))
            except UNREADABLE as error:
                unreadable.append(f"{path.relative_to(folder)} ({error})")
                continue
            labels.append(label)
            good.append(part == "GoodImg")
    warn_of_unreadable(unreadable, len(patches), stacklevel=3)
    if not patches:
        raise FileNotFoundError(
            f"no readable image of split {split!r} in {folder} ({', '.join(parts[which])})"
        )
    patches = normalise(torch.from_numpy(np.stack(patches))[:, None])
    dataset = CharacterDataset(patches, torch.tensor(labels), torch.tensor(good))
    return dataset if size is None else dataset.sample(size, seed)


def _find_chars74k(root):
    """Return the folder ``English/Img`` under `root` or under its ``chars74k``."""
    places = [root / "English" / "Img", root / "chars74k" / "English" / "Img"]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(
        f"Chars74K not found: looked for {places[0]} and {places[1]}. "
        "Give root=, or set the environment variable CPNB_DATA, to the folder that holds chars74k/ "
        "or English/; the archive is EnglishImg.tgz of the Chars74K page"
    )


def _chars74k_files(folder):
    """Return sorted [(path, label)] of one part, folded to 36 classes; warn of empty classes."""
    lower = any((folder / f"Sample{sample:03d}").is_dir() for sample in range(37, 63))
    found, missing = [], []
    for sample in range(1, 63 if lower else 37):
        paths = image_files(folder / f"Sample{sample:03d}")
        label = sample - 1 if sample <= 36 else sample - 27  # Sample037 is "a": the class of "A"
        found += [(path, label) for path in paths]
        if not paths:
            shown = CLASSES[label] if sample <= 36 else CLASSES[label].lower()
            missing.append(f"{shown} (Sample{sample:03d})")
    if missing:
        warnings.warn(
            f"Chars74K is incomplete: no images in {folder} of {', '.join(missing)}; going on",
            stacklevel=5,
        )
    return found


def _read_patch(path):
    """Read an image as grey, edge-replicated to a square, resized to 24x24: float32 array.

    The square keeps the letter's proportions: squeezed to a square, an I would look like a block.
    """
    grey = np.asarray(read_image(path, "L"))
    height, width = grey.shape
    spare = abs(height - width)
    around = (spare // 2, spare - spare // 2)
    square = np.pad(grey, ((0, 0), around) if height > width else (around, (0, 0)), mode="edge")
    small = Image.fromarray(square).resize((PATCH, PATCH), Image.Resampling.BILINEAR)
    return np.asarray(small, dtype=np.float32)


def _load_emnist(split, root, size=None, seed=0, download=False):
    from torchvision.datasets import (
        EMNIST,
    )  # here: torchvision takes a second to import, and only this needs it

    folder = data_root(root)
    try:
        stored = EMNIST(folder, split="byclass", train=split != "test", download=download)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"EMNIST not found: looked for {folder / 'EMNIST' / 'raw'}/emnist-byclass-*. "
            "Pass download=True (562 MB, checked by hash), or give the folder that holds EMNIST/ "
            "by root= or the environment variable CPNB_DATA"
        ) from error
    except Exception as error:  # whatever torchvision makes of a broken file
        part = "test" if split == "test" else "train"
        raw = sorted((folder / "EMNIST" / "raw").glob(f"emnist-byclass-{part}-*"))
        told = "; ".join(f"{path}: {what_it_is(path)}" for path in raw)
        raise OSError(f"EMNIST's files are broken or cut short ({error!r}): {told}") from error
    rows = torch.arange(len(stored.targets))
    if split != "test":  # EMNIST has no validation part: every tenth of its training rows
        rows = rows[(rows % 10 == 9) == (split == "validation")]
    if size is not None:
        everything = CharacterDataset(rows, rows)
        rows = everything.sample(size, seed).labels
    labels = stored.targets[rows].long()
    # stored transposed, in a 28x28 frame of which the outer 2 pixels are empty
    patches = normalise(stored.data[rows].mT[:, None, 2:26, 2:26])
    return CharacterDataset(patches, torch.where(labels < 36, labels, labels - 26))


def _load_cifar10(split, root, size=None, seed=0):
    return images.load_cifar10(split, data_root(root), size, seed)


def _load_imagenet(split, root, size=None, seed=0, complete=False):
    return images.load_imagenet(split, data_root(root), size, seed, complete)


_LOADERS = {
    "characters": _load_characters,
    "chars74k": _load_chars74k,
    "emnist": _load_emnist,
    "cifar10": _load_cifar10,
    "imagenet-sample": _load_imagenet,
}
