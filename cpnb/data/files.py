"""Image files: which ones count, how their pixels are read, what is said of the broken ones.

One place for all data sets, so that a file is the same image in each of them.
"""

import io
import warnings
import zlib
from pathlib import Path, PurePath
from zipfile import BadZipFile, ZipFile

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
# Ways to refuse a file: Pillow's, an archive's (RuntimeError: it is encrypted).
UNREADABLE = (
    OSError, SyntaxError, ValueError, Image.DecompressionBombError,
    BadZipFile, zlib.error, EOFError, RuntimeError,
)  # fmt: skip
NAMED = 5  # at most so many files or classes are named in a message
HEADS = {
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<?xml": "an XML page",
    b"version https://git-lfs": "the pointer to a file that Git LFS has not fetched",
    b"pk\x03\x04": "a zip archive, cut short or damaged",
    b"\x1f\x8b": "a gzip archive",
}


def is_image(name) -> bool:
    """Whether a file counts as an image: by its ending, in either case, unless it is hidden."""
    name = PurePath(name)
    return name.suffix.lower() in SUFFIXES and not name.name.startswith(".")


def image_files(folder: Path, pattern: str = "*") -> list[Path]:
    """The image files of a folder that match a pattern, such as ``*/*``, sorted."""
    return sorted(path for path in folder.glob(pattern) if is_image(path))


def read_image(file, mode: str) -> Image.Image:
    """An image as it is seen: upright, on an opaque ground, 8 bits a colour.

    The EXIF orientation is applied; greys of 16 bits are scaled to 8; of an animation the first
    frame counts. A transparent ground becomes white behind dark ink and black behind light ink.

    Parameters
    ----------
    file : path, binary file or bytes
    mode : "L" or "RGB"

    Raises
    ------
    UNREADABLE
        One of these errors, if it is no image, or one of 32 bits a pixel, whose range is unknown.
    """
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return _on_ground(_eight_bits(image)).convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Greys of 16 bits as greys of 8; Pillow's own conversion cuts off all above 255."""
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if not deep:
        if image.mode in ("I", "F"):
            raise ValueError(f"pixels of 32 bits (mode {image.mode}), whose range is unknown")
        return image
    values = np.asarray(image)
    grey = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if (clear := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _on_ground(image: Image.Image) -> Image.Image:
    """A transparent image over the ground that its ink stands out from; others as they are."""
    if not image.has_transparency_data:
        return image
    ink = image.convert("RGBA")
    opacity, grey = (
        np.asarray(part, np.float64) for part in (ink.getchannel("A"), ink.convert("L"))
    )
    light = (opacity * grey).sum() > 127.5 * opacity.sum()
    ground = Image.new("RGBA", ink.size, "black" if light else "white")
    return Image.alpha_composite(ground, ink).convert("RGB")


def what_it_is(path) -> str:
    """What a file that is not what it should be seems to be, for an error's end: "it is empty"."""
    with open(path, "rb") as file:
        head = file.read(64)
    if not head:
        return "it is empty"
    shown = f"it begins with {head[:24]!r}"
    kinds = [kind for start, kind in HEADS.items() if head.lstrip().lower().startswith(start)]
    return f"{shown}: {kinds[0]}" if kinds else shown


def open_archive(path: Path) -> ZipFile:
    """A zip archive.

    Raises
    ------
    OSError
        If it is none, or cut short; the message says what it seems to be.
    """
    try:
        return ZipFile(path)
    except BadZipFile as error:
        raise OSError(
            f"{path} is no whole zip archive ({error}): {what_it_is(path)}; fetch it again"
        ) from error


def none_readable(unreadable: list[str], place: Path) -> OSError:
    """The error to raise where every single image is broken."""
    number = len(unreadable)
    return OSError(f"none of the {number} images in {place} can be read: {few(unreadable, '; ')}")


def warn_of_unreadable(unreadable: list[str], kept: int, stacklevel: int) -> None:
    """Warn of images left out, if there are any: how many, and the first of them by name.

    `stacklevel` counts from the caller, as that of `warnings.warn` does.
    """
    if unreadable:
        warnings.warn(
            f"{len(unreadable)} unreadable images left out, {kept} kept: {few(unreadable, '; ')}",
            stacklevel=stacklevel + 1,
        )


def few(names: list[str], separator: str = ", ") -> str:
    """The first of these names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return separator.join(names[:NAMED]) + more
