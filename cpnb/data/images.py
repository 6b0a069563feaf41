"""Colour images in folders by class: CIFAR-10 in memory, ImageNet read as it is needed.

- CIFAR-10: ``train.zip`` and ``test.zip`` with ``train/<class>/*.jpg`` inside, or the same as
  folders, or what torchvision downloads (whose files are checked by their hashes).
- ImageNet, whole or a sample of it: ``val/<wnid>/*.JPEG`` (and ``train/``), with ``wnids.txt``
  giving the 1000 classes in the order of the networks' outputs.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from cpnb.data.files import (
    UNREADABLE,
    few,
    image_files,
    is_image,
    none_readable,
    open_archive,
    read_image,
    warn_of_unreadable,
)
from cpnb.data.sampling import chosen_rows

CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageDataset(Dataset):
    """Images in memory: items are (float32 tensor (3, H, W), normalised; int label).

    Attributes
    ----------
    images : Tensor, shape (N, 3, H, W), float32
    labels : Tensor, shape (N,), int64
    classes : list of str
    """

    def __init__(self, images: Tensor, labels: Tensor, classes):
        self.images, self.labels, self.classes = images, labels, list(classes)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index], int(self.labels[index])

    def sample(self, size: int, seed: int = 0) -> "ImageDataset":
        """Return `size` rows chosen at random without repetition, the same for the same seed."""
        rows = chosen_rows(len(self), size, seed)
        return ImageDataset(self.images[rows], self.labels[rows], self.classes)


class ImageFiles(Dataset):
    """Images read from files when asked for: (float32 tensor (3, 224, 224), normalised; label).

    The shorter side is scaled to 256 pixels and the middle 224×224 cut out, ImageNet's usual
    evaluation.

    Attributes
    ----------
    paths : list of Path
    labels : Tensor, shape (N,), int64
    classes : list of str
        All classes, those without images too.
    """

    def __init__(self, paths: list[Path], labels: Tensor, classes):
        self.paths, self.labels, self.classes = paths, labels, list(classes)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        path = self.paths[index]
        try:
            pixels = _middle(read_image(path, "RGB"))
        except UNREADABLE as error:
            raise OSError(f"{path} cannot be read as an image: {error}") from error
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        return normalise(image[None], IMAGENET_MEAN, IMAGENET_STD)[0], int(self.labels[index])

    def sample(self, size: int, seed: int = 0) -> "ImageFiles":
        """Return `size` files chosen at random without repetition, the same for the same seed."""
        rows = chosen_rows(len(self), size, seed).tolist()
        return ImageFiles([self.paths[row] for row in rows], self.labels[rows], self.classes)


def normalise(images: Tensor, mean, std) -> Tensor:
    """(N, 3, H, W) of 0 to 255 to float32 of zero mean and unit deviation in each colour."""
    shape = (1, 3, 1, 1)
    mean, std = (255 * torch.tensor(values).view(shape) for values in (mean, std))
    return images.float().sub_(mean).div_(std)


def flip_and_crop(images: Tensor, generator: torch.Generator, pad: int = 4) -> Tensor:
    """CIFAR's usual augmentation: mirrored by chance, shifted by up to `pad` pixels each way.

    Parameters
    ----------
    images : Tensor, shape (N, C, H, W)
        What comes in from beyond the edge is zero, the mean grey of normalised images.
    generator : torch.Generator
        On the images' device.
    """
    number, _, height, width = images.shape
    where = {"generator": generator, "device": images.device}
    mirrored = torch.rand(number, **where) < 0.5
    top, left = (torch.randint(2 * pad + 1, (number, 1), **where) for _ in range(2))
    rows = top + torch.arange(height, device=images.device)  # (N, H)
    columns = torch.arange(width, device=images.device).expand(number, -1)
    columns = left + torch.where(mirrored[:, None], columns.flip(1), columns)
    # Gathered from channels-last, where a pixel's channels lie together.
    padded = torch.nn.functional.pad(images, [pad] * 4).permute(0, 2, 3, 1)
    which = torch.arange(number, device=images.device)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def load_cifar10(split: str, root: Path, size=None, seed: int = 0) -> ImageDataset:
    """CIFAR-10, 3×32×32; every tenth training image of a class is for validation.

    Raises
    ------
    FileNotFoundError
        Neither the archives nor the folders are there.
    OSError
        An archive is none, or cut short: the message says what it is. An image that cannot be read
        is left out, and counted in a warning.
    ValueError
        Not the ten classes: those that are missing and those that are unknown are named.
    """
    part = "test" if split == "test" else "train"
    images, labels, numbers = _cifar10_arrays(root, part)
    if split != "test":
        held = numbers % 10 == 9
        kept = held if split == "validation" else ~held
        images, labels = images[kept], labels[kept]
    dataset = ImageDataset(images, labels, CIFAR10)
    dataset = dataset if size is None else dataset.sample(size, seed)
    dataset.images = normalise(dataset.images, CIFAR10_MEAN, CIFAR10_STD)
    return dataset


def _cifar10_arrays(root: Path, part: str) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, 3, 32, 32), uint8; labels; and each image's number within its class."""
    places = [root / "cifar10", root]
    for place in places:
        archive, folder = place / f"{part}.zip", place / part
        if archive.is_file():
            with open_archive(archive) as file:
                return _read_classes(list(filter(is_image, file.namelist())), file.read, archive)
        if any((folder / name).is_dir() for name in CIFAR10):
            names = [str(path) for path in image_files(folder, "*/*")]
            return _read_classes(names, lambda n: Path(n).read_bytes(), folder)
        if (place / "cifar-10-batches-py").is_dir():
            return _torchvision_cifar10(place, part)
    looked = ", ".join(str(places[0] / n) for n in (f"{part}.zip", part, "cifar-10-batches-py"))
    raise FileNotFoundError(
        f"CIFAR-10 not found: looked for {looked}, and the same in {root}. Give root=, or set the "
        "environment variable CPNB_DATA, to the folder that holds cifar10/"
    )


def _read_classes(names: list[str], read, place: Path) -> tuple[Tensor, Tensor, Tensor]:
    names = sorted(names)
    _check_classes({Path(name).parent.name for name in names}, CIFAR10, place)
    images, labels, numbers, unreadable, seen = [], [], [], [], dict.fromkeys(CIFAR10, 0)
    for name in names:
        kind = Path(name).parent.name
        seen[kind] += 1
        try:
            pixels = np.asarray(read_image(read(name), "RGB"))
            if pixels.shape != (32, 32, 3):
                raise ValueError(f"{pixels.shape[1]}×{pixels.shape[0]} pixels, not 32×32")
        except UNREADABLE as error:
            unreadable.append(f"{name} ({error})")
            continue
        images.append(pixels)
        labels.append(CIFAR10.index(kind))
        numbers.append(seen[kind] - 1)
    if not images:
        raise none_readable(unreadable, place)
    warn_of_unreadable(unreadable, len(images), stacklevel=6)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return pixels, torch.tensor(labels), torch.tensor(numbers)


def _torchvision_cifar10(place: Path, part: str) -> tuple[Tensor, Tensor, Tensor]:
    from torchvision.datasets import CIFAR10 as Stored  # here: it takes a second to import

    try:
        stored = Stored(place, train=part == "train")
    except Exception as error:  # whatever torchvision makes of a broken file
        folder = place / "cifar-10-batches-py"
        raise OSError(f"{folder} is incomplete or broken ({error}); fetch it again") from error
    labels = torch.tensor(stored.targets)
    numbers = torch.zeros_like(labels)
    for label in range(len(CIFAR10)):
        rows = labels == label
        numbers[rows] = torch.arange(int(rows.sum()))
    return torch.from_numpy(stored.data).permute(0, 3, 1, 2), labels, numbers


def load_imagenet(
    split: str, root: Path, size=None, seed: int = 0, complete: bool = False
) -> ImageFiles:
    """ImageNet in folders by class; "validation" and "test" are both its ``val``.

    Parameters
    ----------
    complete : bool
        Whether a class without images is an error; a sample does without some.

    Files that are no images (empty ones, web pages) are left out, and counted in a warning. One
    that turns out to be broken further in is named when it is read.

    Raises
    ------
    FileNotFoundError
        ``wnids.txt`` or the split's folder is not there.
    ValueError
        ``wnids.txt`` has a class twice; a folder is no class of it; or, if `complete`, classes are
        missing.
    """
    part = "train" if split == "train" else "val"
    places = [root / "imagenet-sample", root / "imagenet", root]
    home = next((p for p in places if (p / "wnids.txt").is_file() and (p / part).is_dir()), None)
    if home is None:
        raise FileNotFoundError(
            f"ImageNet not found: looked for wnids.txt and {part}/ in "
            f"{', '.join(map(str, places))}. "
            "Give root=, or set the environment variable CPNB_DATA, to a folder that holds them"
        )
    lines = (home / "wnids.txt").read_text(encoding="utf-8").splitlines()
    classes = [line.split()[0] for line in lines if line.strip()]
    files = image_files(home / part, "*/*")
    folders = {path.parent.name for path in files}
    _check_classes(folders, classes, home / part, complete)
    number = _numbered(classes, home / "wnids.txt")
    labels = torch.tensor([number[path.parent.name] for path in files])
    dataset = ImageFiles(files, labels, classes)
    return _images_alone(dataset if size is None else dataset.sample(size, seed), home / part)


def _numbered(classes: list[str], place: Path) -> dict[str, int]:
    number = {}
    for label, name in enumerate(classes):
        if number.setdefault(name, label) != label:
            raise ValueError(
                f"{place}: class {name} stands twice, as {number[name]} and as {label}"
            )
    return number


def _images_alone(dataset: ImageFiles, place: Path) -> ImageFiles:
    """Without the files that do not begin as images do; to read them whole would take too long."""
    kept, unreadable = [], []
    for row, path in enumerate(dataset.paths):
        try:
            Image.open(path).close()
            kept.append(row)
        except UNREADABLE as error:
            unreadable.append(f"{path} ({error})")
    if not kept:
        raise none_readable(unreadable, place)
    warn_of_unreadable(unreadable, len(kept), stacklevel=5)
    return ImageFiles([dataset.paths[row] for row in kept], dataset.labels[kept], dataset.classes)


def _check_classes(found: set, expected, place: Path, complete: bool = True) -> None:
    unknown, missing = sorted(found - set(expected)), [n for n in expected if n not in found]
    if unknown:
        raise ValueError(
            f"{place} has {len(unknown)} folder(s) that are no class: {few(unknown)}; the classes "
            f"are {few(list(expected))}"
        )
    if missing and (complete or not found):
        raise ValueError(
            f"{place} has no images of {len(missing)} of {len(expected)} classes: {few(missing)}"
        )


def _middle(image: Image.Image) -> np.ndarray:
    """The middle 224×224 pixels after the shorter side was scaled to 256: (224, 224, 3), uint8."""
    scale = 256 / min(image.size)
    width, height = (max(256, int(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    return np.array(image.crop((left, top, left + 224, top + 224)))
