"""What a camera does to a character patch: warp, blur, resolution, light, noise, JPEG blocks.

Both the renderer of :mod:`cpnb.data.glyphs` and the augmentation of real crops are made of these.
Patches are (N, 1, 24, 24) float tensors; every function draws its randomness from the given
generator, on whose device the patches live, so a batch is the same on each run. Blur and
resampling of a whole batch are two batched matrix products, M_y @ patch @ M_x^T, with the M
chosen from a small bank of 24x24 operators.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F

PATCH = 24  # pixels of one side of a patch, CharNet's input
_SIGMAS = tuple(0.15 * k for k in range(1, 15))  # blur widths of the bank, pixels
_SIDES = (24, 20, 16, 14, 12, 10)  # resolutions of the bank, pixels across the patch


def normalise(patches):
    """Bring each patch to zero mean and unit standard deviation (a flat patch becomes all zero).

    Parameters
    ----------
    patches : Tensor, shape (N, 1, H, W)

    Returns
    -------
    Tensor, shape (N, 1, H, W), float32
    """
    patches = patches.float()
    centred = patches - patches.mean(dim=(2, 3), keepdim=True)
    deviation = centred.square().mean(dim=(2, 3), keepdim=True).sqrt()
    return torch.where(
        deviation > 1e-4, centred / deviation.clamp_min(1e-4), torch.zeros_like(centred)
    )


def uniform(low, high, shape, generator):
    """Draw a float tensor of `shape`, uniform in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def chance(probability, shape, generator):
    """Draw a bool tensor of `shape`, each True with `probability`."""
    return uniform(0, 1, shape, generator) < probability


def affine_matrices(angle, shear, aspect):
    """Return (N, 2, 2): rotation (radians) times shear times diag(sqrt(aspect), 1/sqrt(aspect))."""
    cosine, sine, root, zero = angle.cos(), angle.sin(), aspect.sqrt(), torch.zeros_like(angle)
    rotation = torch.stack([cosine, -sine, sine, cosine], -1).view(-1, 2, 2)
    slant = torch.stack([torch.ones_like(angle), shear, zero, torch.ones_like(angle)], -1).view(
        -1, 2, 2
    )
    return rotation @ slant @ torch.diag_embed(torch.stack([root, 1 / root], -1))


@lru_cache
def pixel_grid(device):
    """Return the pixel centres of a patch as (576, 2) pairs (x, y) in [-1, 1]."""
    line = (torch.arange(PATCH, device=device) + 0.5) * 2 / PATCH - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)


@lru_cache
def _camera_bank(device):
    """Return (6 resolutions, 14 blurs, 24, 24): the operators blur-then-resample, borders kept."""
    place = torch.arange(PATCH).float()
    padded = torch.arange(-PATCH, 2 * PATCH).float()
    bank = []
    for side in _SIDES:
        for sigma in _SIGMAS:
            weights = torch.exp(-0.5 * ((padded[None] - place[:, None]) / sigma) ** 2)
            weights = weights / weights.sum(1, keepdim=True)
            blur = torch.zeros(PATCH, PATCH)
            blur.index_add_(1, padded.clamp(0, PATCH - 1).long(), weights)
            bank.append(_resampling(side) @ blur)
    return torch.stack(bank).view(len(_SIDES), len(_SIGMAS), PATCH, PATCH).to(device)


def _resampling(side):
    """Return (24, 24): average 24 pixels down to `side`, then interpolate linearly back to 24."""
    identity = torch.eye(PATCH)[:, None, None]  # row by row, as images of 1 x 24
    options = {"mode": "bilinear", "align_corners": False}
    small = F.interpolate(identity, (1, side), antialias=True, **options)
    return F.interpolate(small, (1, PATCH), **options)[:, 0, 0].T


def camera(patches, generator, sharp=0.35, motion=0.25):
    """Blur each patch (0.15 to 2.1 pixels, mostly little) and lower its resolution.

    Parameters
    ----------
    patches : Tensor, shape (N, 1, 24, 24)
    generator : torch.Generator
    sharp : float
        Fraction of patches that get the least blur and keep their resolution.
    motion : float
        Fraction of patches blurred by different widths along x and y.
    """
    n = len(patches)
    keep = chance(sharp, n, generator)
    side = (uniform(0, 1, n, generator).square() * len(_SIDES)).long()
    blur_y = (uniform(0, 1, n, generator).square() * len(_SIGMAS)).long()
    other = (uniform(0, 1, n, generator).square() * len(_SIGMAS)).long()
    blur_x = torch.where(chance(motion, n, generator), other, blur_y)
    side, blur_y, blur_x = (index.masked_fill(keep, 0) for index in (side, blur_y, blur_x))
    bank = _camera_bank(patches.device)
    return (bank[side, blur_y] @ patches[:, 0] @ bank[side, blur_x].mT)[:, None]


def light(patches, generator, strength=0.5):
    """Add a linear ramp of random direction, up to `strength` at the patch's edge."""
    n = len(patches)
    turn = uniform(0, 2 * math.pi, n, generator)
    slope = strength * uniform(0, 1, n, generator).square()
    direction = torch.stack([turn.cos(), turn.sin()], -1) * slope[:, None]
    return patches + (direction @ pixel_grid(patches.device).T).view(n, 1, PATCH, PATCH)


def noise(patches, generator, strength=0.25):
    """Add white noise whose deviation is drawn per patch from [0, strength), mostly small."""
    level = strength * uniform(0, 1, (len(patches), 1, 1, 1), generator).square()
    grain = torch.randn(patches.shape, generator=generator, device=generator.device)
    return patches + level * grain


@lru_cache
def _cosine_basis():
    """Return the orthonormal 8-point DCT-II, three times on the diagonal of a 24x24 matrix."""
    k = torch.arange(8).float()
    basis = torch.cos(math.pi / 8 * (k[None] + 0.5) * k[:, None]) * 0.5
    basis[0] /= math.sqrt(2)
    return torch.block_diag(basis, basis, basis)


def jpeg(patches, generator, probability=0.3, strength=0.5):
    """Round the 8x8 cosine coefficients of some patches, high frequencies coarser, as JPEG does."""
    chosen = torch.nonzero(chance(probability, len(patches), generator))[:, 0]
    if len(chosen) == 0:
        return patches
    basis = _cosine_basis().to(patches.device)
    frequency = torch.arange(PATCH, device=patches.device).remainder(8)
    step = 1 + 0.6 * (frequency[:, None] + frequency[None])
    step = step * strength * uniform(0.02, 1, (len(chosen), 1, 1), generator)
    rounded = (basis @ patches[chosen, 0] @ basis.T / step).round() * step
    return patches.index_copy(0, chosen, (basis.T @ rounded @ basis)[:, None])


def augment(
    batch, generator, *, rotation=8.0, shear=0.15, scale=0.12, shift=0.08, invert=0.5, strength=1.0
):
    """Vary real crops during training: affine, polarity, contrast curve, light, blur, noise.

    Parameters
    ----------
    batch : Tensor, shape (N, 1, 24, 24)
        Normalised patches; not changed.
    generator : torch.Generator
        On any device; the same state and batch give the same result.
    rotation : float
        Largest rotation, degrees.
    shear, scale, shift : float
        Largest shear, relative change of size and of aspect, and shift as a fraction of the patch.
    invert : float
        Fraction of patches whose contrast sign is turned round.
    strength : float
        Scales light, noise and the contrast curve; 0 leaves them and the blur out.

    Returns
    -------
    Tensor, shape (N, 1, 24, 24), normalised, on the device of `batch`.
    """
    if batch.ndim != 4 or tuple(batch.shape[1:]) != (1, PATCH, PATCH):
        raise ValueError(
            f"batch: got shape {tuple(batch.shape)}, expected (N, 1, {PATCH}, {PATCH})"
        )
    n, device = len(batch), generator.device
    matrix = (
        affine_matrices(
            uniform(-math.radians(rotation), math.radians(rotation), n, generator),
            uniform(-shear, shear, n, generator),
            uniform(-scale, scale, n, generator).exp(),
        )
        * uniform(-scale, scale, n, generator).exp()[:, None, None]
    )
    offset = uniform(-2 * shift, 2 * shift, (n, 2), generator)
    grid = (pixel_grid(device) @ matrix.mT + offset[:, None]).view(n, PATCH, PATCH, 2)
    patches = F.grid_sample(batch.to(device), grid, padding_mode="border", align_corners=False)
    sign = 1 - 2 * chance(invert, (n, 1, 1, 1), generator).float()
    patches = patches * sign
    if strength > 0:
        bend = uniform(-0.3, 0.3, (n, 1, 1, 1), generator) * strength
        patches = patches + bend * (patches.clamp(-2, 2).square() - 1)
        patches = light(patches, generator, 0.6 * strength)
        patches = noise(camera(patches, generator, sharp=0.6), generator, 0.3 * strength)
    return normalise(patches).to(batch.device)
