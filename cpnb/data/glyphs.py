"""Draw scene-like character patches from clean glyph masks: the "characters" data set.

The masks come from ``data/glyphs.npz`` (open-licence font families; ``data/build_glyphs.py``).
A patch is a tight crop of one letter of a word: the letter and, at the edges, its neighbours set
in the same font; drawn through a random affine and slight perspective map, with outline or shadow
at times, over a textured ground of either polarity; then seen through :mod:`cpnb.data.distortions`.
Training, validation and test differ by font family.
"""

import math
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from cpnb.data.distortions import (
    PATCH,
    affine_matrices,
    camera,
    chance,
    jpeg,
    light,
    noise,
    normalise,
    pixel_grid,
    uniform,
)
from cpnb.data.files import what_it_is
from cpnb.data.sampling import check_size
from cpnb.runs.places import shipped

ATLAS = shipped("data/glyphs.npz")
CLASSES = list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
BACKGROUND = len(CLASSES)  # label of patches without a centred character
SPLITS = ("train", "validation", "test")
_CHUNK = 256  # patches drawn at once: fits the caches, and fixes what a seed means
_INK = 28 / 32  # part of a mask's cell that its ink spans along the longer side


class Atlas:
    """The glyph masks of the font families of one split.

    Attributes
    ----------
    masks : Tensor, shape (styles, 62, 32, 32), uint8
        Ink coverage 0..255 of 0-9, A-Z, a-z, each scaled to its cell.
    metrics : Tensor, shape (styles, 62, 4), float32
        In cap heights: side of the cell, x of the ink's centre from the pen, y of it above the
        baseline, advance.
    extents : Tensor, shape (styles, 62, 2), float32
        Width and height of the ink as parts of the longer of the two.
    families : list of str
    """

    def __init__(self, split, path=ATLAS):
        if split not in SPLITS:
            raise ValueError(f"split: got {split!r}, accepted are {', '.join(SPLITS)}")
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"glyph atlas not found: {path}; data/build_glyphs.py makes it")
        with _opened(path) as arrays:
            kept = arrays["splits"][arrays["family"]] == split
            self.masks = torch.from_numpy(arrays["masks"][kept])
            self.metrics = torch.from_numpy(arrays["metrics"][kept])
            self.extents = _extents(self.masks)
            self.families = arrays["families"][arrays["splits"] == split].tolist()


def _opened(path):
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise OSError(f"{path} is no glyph atlas ({error}): {what_it_is(path)}") from error


def _extents(masks):
    """Return (..., 2): columns and rows that hold ink, divided by the larger of the two."""
    inked = masks > 40
    counts = torch.stack([inked.any(-2).sum(-1), inked.any(-1).sum(-1)], -1).float()
    return counts / counts.amax(-1, keepdim=True)


@lru_cache(maxsize=3)
def load_atlas(split):
    """Return the :class:`Atlas` of a split, read once."""
    return Atlas(split)


def render(size, split="train", seed=0, background=0.0, lowercase=0.2):
    """Draw `size` labelled patches from the fonts of a split.

    Parameters
    ----------
    size : int
    split : "train", "validation" or "test"
        Chooses the font families, and is part of the seed.
    seed : int
    background : float, 0..1
        Fraction of patches of the background class (label 36): ground alone, a gap between letters,
        a piece of a large letter, or letters too small.
    lowercase : float, 0..1
        Fraction of the letters drawn in lower case; the label is the same for both cases.

    Returns
    -------
    images : Tensor, shape (size, 1, 24, 24), float32, each of zero mean and unit standard deviation
    labels : Tensor, shape (size,), int64
        0-9, A-Z without case, 36 for background.
    """
    for name, value in (("background", background), ("lowercase", lowercase)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: got {value!r}, accepted is a fraction from 0 to 1")
    size = check_size(size)
    atlas = load_atlas(split)
    generator = torch.Generator().manual_seed(int(seed) * len(SPLITS) + SPLITS.index(split))
    images = torch.empty(size, 1, PATCH, PATCH)
    labels = torch.empty(size, dtype=torch.int64)
    for start in range(0, size, _CHUNK):
        stop = min(start + _CHUNK, size)
        drawn = _render_chunk(_CHUNK, atlas, generator, background, lowercase)
        images[start:stop], labels[start:stop] = (part[: stop - start] for part in drawn)
    return images, labels


def _render_chunk(n, atlas, generator, background, lowercase):
    """Return (images (n, 1, 24, 24), labels (n,)) of one chunk."""
    labels = torch.randint(len(CLASSES), (n,), generator=generator)
    blank = chance(background, n, generator)
    style = torch.randint(len(atlas.masks), (n,), generator=generator)
    word = _word(labels, lowercase, generator)
    coverage, sample = _word_coverage(atlas, style, word, blank, generator)
    images = _paint(coverage, sample, generator)
    images = camera(images, generator)
    images = normalise(jpeg(noise(images, generator, 0.1), generator, 0.15, 0.15))
    return images, labels.masked_fill(blank, BACKGROUND)


def _word(labels, lowercase, generator):
    """Return (n, 3) glyph indices (0..61): left neighbour, the character itself, right neighbour.

    Neighbours mostly share the character's case, as in words; digits stand mostly among digits.
    """
    n = len(labels)
    small = chance(lowercase, n, generator)
    digit = chance(0.15, (n, 2), generator) | (
        (labels < 10)[:, None] & chance(0.7, (n, 2), generator)
    )
    around = torch.where(
        digit,
        torch.randint(10, (n, 2), generator=generator),
        10 + torch.randint(26, (n, 2), generator=generator),
    )
    word = torch.stack([around[:, 0], labels, around[:, 1]], -1)
    return word + 26 * ((word >= 10) & small[:, None])


def _word_coverage(atlas, style, word, blank, generator):
    """Sample the three letters into the patch.

    Returns (coverage, sample): the ink coverage 0..1, (n, 1, 24, 24), and the function that draws
    it again for some rows, shifted by (m, 2) pixels (for shadows).
    """
    n = len(style)
    metrics = atlas.metrics[style[:, None], word]  # (n, 3, 4)
    masks = atlas.masks[style[:, None], word].float() / 255  # (n, 3, 32, 32)
    side, centre_x, centre_y, advance = metrics.unbind(-1)
    gap = uniform(-0.03, 0.22, (n, 1), generator)
    pen = torch.stack([-advance[:, 0] - gap[:, 0], torch.zeros(n), advance[:, 1] + gap[:, 0]], -1)
    centres = torch.stack([pen + centre_x, -centre_y], -1)  # (n, 3, 2), y downwards
    origin, zoom = _aim(blank, generator)
    centres = centres - centres[:, 1:2] - (origin * side[:, 1:2])[:, None]
    masks[:, 0] *= (~chance(0.45, n, generator)).float()[:, None, None]
    masks[:, 2] *= (~chance(0.45, n, generator)).float()[:, None, None]
    masks *= (~(blank & chance(0.25, n, generator))).float()[:, None, None, None]

    # a crop box is tight in both directions, so a narrow letter often comes out stretched
    stretch = atlas.extents[style, word[:, 1]] ** uniform(0, 0.9, (n, 1), generator)  # (n, 2)
    reach = stretch * (side[:, 1] * _INK / 2 / zoom)[:, None]  # half the patch, in cap heights
    points = _view(generator, n) * reach[:, None]  # (n, 576, 2), cap heights

    def sample(rows, shift):
        moved = points[rows] - (shift * reach[rows] * (2 / PATCH))[:, None]
        grid = (moved[:, None] - centres[rows][:, :, None]) / (side[rows] / 2)[..., None, None]
        ink = F.grid_sample(
            masks[rows].flatten(0, 1)[:, None], grid.view(-1, PATCH, PATCH, 2), align_corners=False
        )
        return ink.view(len(rows), 3, PATCH, PATCH).amax(1, keepdim=True)

    return sample(torch.arange(n), torch.zeros(n, 2)), sample


def _aim(blank, generator):
    """Return where to look, (n, 2) in cells of the letter, and how close, (n,): ink / patch.

    A character fills 0.55 to 1.05 of the patch. Background looks beside the letter, or far too
    close, or from too far.
    """
    n = len(blank)
    origin = 0.035 * torch.randn((n, 2), generator=generator).clamp(-2, 2)
    zoom = 1.05 - 0.5 * uniform(0, 1, n, generator).square()
    kind = torch.randint(3, (n,), generator=generator)
    side = 1 - 2 * chance(0.5, n, generator).float()
    beside = torch.stack(
        [side * uniform(0.5, 1.0, n, generator), uniform(-0.5, 0.5, n, generator)], -1
    )
    close = uniform(2.5, 5.0, n, generator)
    origin = torch.where((blank & (kind == 0))[:, None], beside, origin)
    origin = torch.where(
        (blank & (kind == 1))[:, None], uniform(-0.5, 0.5, (n, 2), generator), origin
    )
    zoom = torch.where(blank & (kind == 1), close, zoom)
    return origin, torch.where(blank & (kind == 2), uniform(0.12, 0.3, n, generator), zoom)


def _view(generator, n):
    """Map the pixel centres through a random affine map and a slight perspective: (n, 576, 2)."""
    matrix = affine_matrices(
        torch.randn(n, generator=generator).clamp(-2.5, 2.5) * math.radians(5),
        torch.randn(n, generator=generator).clamp(-2.5, 2.5) * 0.18,
        (torch.randn(n, generator=generator).clamp(-2, 2) * 0.16).exp(),
    )
    tilt = torch.randn((n, 2), generator=generator).clamp(-2, 2) * 0.06
    points = pixel_grid(generator.device).expand(n, -1, -1)
    return points @ matrix.mT / (1 + points @ tilt[:, :, None])


def _paint(coverage, sample, generator):
    """Lay ink, outline and shadow over a ground: (n, 1, 24, 24)."""
    n = len(coverage)
    weight = uniform(-1.2, 0.5, (n, 1, 1, 1), generator).exp()  # below 1 thickens the strokes
    ink = coverage.clamp_min(1e-4) ** weight * (coverage > 0)
    contrast = uniform(0.6, 1.2, (n, 1, 1, 1), generator)
    contrast = contrast * (1 - 2 * chance(0.5, (n, 1, 1, 1), generator).float())
    ground = _ground(n, generator)
    cast = torch.nonzero(chance(0.15, n, generator))[:, 0]
    shadow = sample(cast, uniform(-2.5, 2.5, (len(cast), 2), generator))
    tone = uniform(-1.0, 1.0, (len(cast), 1, 1, 1), generator) * contrast[cast].abs()
    ground = ground.index_copy(0, cast, ground[cast] * (1 - shadow) + tone * shadow)
    lined = torch.nonzero(chance(0.12, n, generator))[:, 0]
    ring = F.max_pool2d(ink[lined], 3, stride=1, padding=1)
    tone = uniform(-1.2, 0.3, (len(lined), 1, 1, 1), generator) * contrast[lined]
    ground = ground.index_copy(0, lined, ground[lined] * (1 - ring) + tone * ring)
    paint = contrast * (
        1 + 0.3 * torch.rand(n, 1, 1, 1, generator=generator) ** 2 * _texture(n, generator)
    )
    return light(ground * (1 - ink) + paint * ink, generator, 0.4)


def _ground(n, generator):
    """Draw grounds: faint texture, some with a bar or the straight edge of a sign."""
    level = 0.3 * torch.rand(n, 1, 1, 1, generator=generator) ** 2
    ground = level * _texture(n, generator)
    edged = torch.nonzero(chance(0.2, n, generator))[:, 0]
    m = len(edged)
    turn = torch.randint(4, (m,), generator=generator) * (math.pi / 2) + 0.12 * torch.randn(
        m, generator=generator
    )
    normal = torch.stack([turn.cos(), turn.sin()], -1)
    depth = (normal @ pixel_grid(generator.device).T).view(m, 1, PATCH, PATCH) - uniform(
        0.6, 1.2, (m, 1, 1, 1), generator
    )
    width = torch.where(
        chance(0.4, (m, 1, 1, 1), generator), uniform(0.1, 0.3, (m, 1, 1, 1), generator), 9.0
    )
    beyond = (depth * 12).clamp(0, 1) * ((width - depth) * 12).clamp(0, 1)
    tone = 0.8 * uniform(-1.0, 1.0, (m, 1, 1, 1), generator)
    return ground.index_copy(0, edged, ground[edged] + tone * beyond)


def _texture(n, generator):
    """Draw noise of 3, 6, 12 and 24 cells across, randomly mixed, of about unit deviation."""
    weights = torch.rand(n, 4, generator=generator) ** 3 * torch.tensor([1.0, 1.0, 0.6, 0.2])
    weights = weights / weights.square().sum(1, keepdim=True).sqrt()
    texture = torch.zeros(n, 1, PATCH, PATCH)
    for scale, weight in zip((3, 6, 12, 24), weights.unbind(1), strict=True):
        cells = torch.randn(n, 1, scale, scale, generator=generator)
        smooth = (
            F.interpolate(cells, PATCH, mode="bilinear", align_corners=False)
            if scale < PATCH
            else cells
        )
        texture += weight[:, None, None, None] * smooth
    return texture
