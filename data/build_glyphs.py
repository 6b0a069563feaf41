"""Build ``glyphs.npz``, the atlas of clean glyph masks behind the "characters" data set.

Only whoever changes the atlas runs this; readers of the notebooks need no fonts. The families are
pinned in ``fonts.txt``::

    pip download --no-deps --dest FOLDER --requirement data/fonts.txt
    python data/build_glyphs.py FOLDER

Every family gives up to three styles: regular, bold and bold italic (what the family has). A family
is refused, by name, when its licence is not the pinned one or one of the 62 characters is missing.
The copyright notices of the families drawn go to ``licences/COPYRIGHT.txt``.
"""

import argparse
import json
import os
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageFont

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CELL = 32  # pixels of one side of a mask
MARGIN = 2  # empty pixels kept on each side, so that interpolation meets no hard border
POINT_SIZE = 160  # drawn large, then area-averaged down to CELL
LEVELS = 16  # grey levels kept: invisible after rendering, and a third of the bytes
LICENCES = {"OFL-1.1": "SIL OPEN FONT LICENSE", "Apache-2.0": "APACHE LICENSE"}
MISSING = "\U0010fffe"  # a noncharacter: every font answers it with its .notdef glyph


def read_pins(path):
    """Return [(package, version, licence, split), ...] of a ``fonts.txt``."""
    pins = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            requirement, comment = line.split("#")
            package, version = requirement.strip().split("==")
            licence, split = comment.split()
            pins.append((package, version, licence, split))
    return pins


class Family:
    """One downloaded family: its wheel, metadata and licence text."""

    def __init__(self, folder, package, version, licence):
        wheel = f"{package.replace('-', '_')}-{version}-py3-none-any.whl"
        self.archive = zipfile.ZipFile(Path(folder) / wheel)
        self.root = package.replace("-", "_")
        self.metadata = json.loads(self._read("metadata.json"))
        self.name = self.metadata["family"]
        text = " ".join(self._read("LICENSE").decode("utf-8", "replace").upper().split())
        if self.metadata["license"] != licence or LICENCES[licence] not in text:
            raise ValueError(
                f"{package}: licence is {self.metadata['license']!r}, pinned {licence!r}"
            )

    def _read(self, name):
        return self.archive.read(f"{self.root}/{name}")

    def styles(self):
        """Yield (style name, PIL font) for regular, bold and bold italic, as far as they exist."""
        for name, slant, weight in (
            ("regular", "normal", 400),
            ("bold", "normal", 700),
            ("bold italic", "italic", 700),
        ):
            font = self._font(slant, weight)
            if font is not None:
                yield name, font

    def _font(self, slant, weight):
        files = [f for f in self.metadata["files"] if f["style"] == slant]
        if not files:
            return None
        nearest = min(files, key=lambda f: abs((f["weight"] or 400) - weight))
        font = ImageFont.truetype(BytesIO(self._read(nearest["path"])), POINT_SIZE)
        if nearest["variable"]:
            return _at_weight(font, weight)
        if abs((nearest["weight"] or 400) - weight) > 150 and not (
            weight == 400 and len(files) == 1
        ):
            return None  # a single-weight family gives its one weight once, as "regular"
        return font


def _at_weight(font, weight):
    """Set the weight axis of a variable font; None when bold is asked of one without that axis."""
    axes = font.get_variation_axes()
    values = [axis["default"] for axis in axes]
    names = [
        axis["name"].decode() if isinstance(axis["name"], bytes) else axis["name"] for axis in axes
    ]
    if "Weight" in names:
        axis = axes[names.index("Weight")]
        values[names.index("Weight")] = float(np.clip(weight, axis["minimum"], axis["maximum"]))
    elif weight != 400:
        return None
    font.set_variation_by_axes(values)
    return font


def _ink(font, character):
    """Return (mask cropped to its ink, its (left, top) corner relative to pen and baseline)."""
    mask, offset = font.getmask2(character, mode="L", anchor="ls")
    image = np.array(mask, dtype=np.uint8).reshape(mask.size[1], mask.size[0])
    rows, columns = (
        np.flatnonzero(image.max(1, initial=0) > 24),
        np.flatnonzero(image.max(0, initial=0) > 24),
    )
    if rows.size == 0:
        return None, None
    crop = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return crop, (offset[0] + columns[0], offset[1] + rows[0])


def _cell(crop):
    """Scale a crop to fit the cell, centred, aspect kept; quantised to LEVELS grey levels."""
    height, width = crop.shape
    box = CELL - 2 * MARGIN
    size = (
        max(1, round(box * width / max(crop.shape))),
        max(1, round(box * height / max(crop.shape))),
    )
    small = Image.fromarray(crop).resize(size, Image.Resampling.BOX)
    cell = np.zeros((CELL, CELL), dtype=np.uint8)
    top, left = (CELL - size[1]) // 2, (CELL - size[0]) // 2
    cell[top : top + size[1], left : left + size[0]] = np.asarray(small)
    step = 255 / (LEVELS - 1)
    return np.round(np.round(cell / step) * step).astype(np.uint8)


def draw_style(font):
    """Return masks (62, 32, 32) uint8 and metrics (62, 4) float32 of one style.

    Metrics, in cap heights: side of the mask's cell, x of the ink's centre from the pen, y of it
    above the baseline, advance width. Raises ValueError naming a missing character.
    """
    notdef, _ = _ink(font, MISSING)
    cap_height = _ink(font, "H")[0].shape[0]
    masks, metrics = [], []
    for character in CHARACTERS:
        crop, corner = _ink(font, character)
        if crop is None or (notdef is not None and np.array_equal(crop, notdef)):
            raise ValueError(f"no glyph for {character!r}")
        height, width = crop.shape
        side = max(crop.shape) * CELL / (CELL - 2 * MARGIN)
        centre = corner[0] + width / 2, -(corner[1] + height / 2)
        masks.append(_cell(crop))
        metrics.append(np.array([side, *centre, font.getlength(character)]) / cap_height)
    return np.stack(masks), np.array(metrics, dtype=np.float32)


def build(folder, pins):
    """Draw the pinned families; return the arrays of ``glyphs.npz``, notices and refusals."""
    notices = []
    masks, metrics, family_of, styles, families, splits, refused = [], [], [], [], [], [], []
    for package, version, licence, split in pins:
        try:
            family = Family(folder, package, version, licence)
            drawn = [(name, *draw_style(font)) for name, font in family.styles()]
        except (ValueError, KeyError, OSError) as error:
            refused.append(f"{package}: {error}")
            continue
        for name, mask, metric in drawn:
            masks.append(mask)
            metrics.append(metric)
            styles.append(name)
            family_of.append(len(families))
        families.append(family.name)
        splits.append(split)
        notices.append(f"{family.name} ({licence}): {family.metadata['copyright'].strip()}")
    if not families:
        raise ValueError("no family could be drawn: " + "; ".join(refused))
    arrays = {
        "masks": np.stack(masks),
        "metrics": np.stack(metrics),
        "family": np.array(family_of, dtype=np.int16),
        "style": np.array(styles),
        "families": np.array(families),
        "splits": np.array(splits),
        "characters": np.array(list(CHARACTERS)),
    }
    return arrays, notices, refused


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="folder with the wheels that `pip download` fetched")
    parser.add_argument("--pins", default=Path(__file__).with_name("fonts.txt"), type=Path)
    parser.add_argument("--output", default=Path(__file__).with_name("glyphs.npz"), type=Path)
    given = parser.parse_args()
    arrays, notices, refused = build(given.folder, read_pins(given.pins))
    partial = given.output.with_suffix(".partial.npz")
    np.savez_compressed(partial, **arrays)
    os.replace(partial, given.output)
    notice_file = given.output.parent / "licences" / "COPYRIGHT.txt"
    notice_file.parent.mkdir(exist_ok=True)
    notice_file.write_text("\n".join(notices) + "\n", encoding="utf-8")
    print(
        f"{len(arrays['families'])} families, {len(arrays['style'])} styles, "
        f"{given.output.stat().st_size / 1e6:.2f} MB"
    )
    for line in refused:
        print("refused", line, file=sys.stderr)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
