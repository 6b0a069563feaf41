"""Means and second moments of the patches under a kernel, and of what the layer makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpnb.layers.plain import plain
from cpnb.training.batches import image_batches
from cpnb.training.evaluation import device_of, evaluation_mode
from cpnb.training.seen import find_part
from cpnb.training.targets import Target

ROUNDING = 1e-6  # share of the mean: float32 maps that spread by less are constant


class OnePatch(ValueError):
    """All patches of a layer are alike."""


@dataclass
class PatchMoments:
    """First and second moments of one group's patches p̂ (S d_y d_x) and outputs z (T).

    The second ones are about the mean; about zero where no bias can take the mean up.
    """

    patch_mean: Tensor  # (P,)
    output_mean: Tensor  # (T,)
    covariance: Tensor  # Σ, (P, P)
    cross: Tensor  # Cov(z, p̂), (T, P)
    count: int = 0  # patches seen

    def by_mode(self, kernel_size: tuple[int, int]) -> list[Tensor]:
        """Second moments along maps (S, S), rows (d_y, d_y) and columns (d_x, d_x) alone.

        Their Kronecker product is Σ where the three do not interact; each has a mean diagonal of 1.
        """
        sigma = self.covariance.reshape(
            -1, *kernel_size, len(self.covariance) // math.prod(kernel_size), *kernel_size
        )
        parts = [torch.einsum(rule, sigma) for rule in ("sijtij->st", "sijskj->ik", "sijsik->jk")]
        return [part / part.diagonal().mean().clamp_min(1e-300) for part in parts]

    @property
    def constant(self) -> bool:
        """Whether all patches are alike, up to float32."""
        variance = self.covariance.diagonal().mean()
        return bool(variance <= ROUNDING**2 * self.patch_mean.square().mean())


@torch.no_grad()
def patch_moments(
    model: nn.Module,
    reference: nn.Module,
    layer: str,
    loader,
    batch_size: int = 32,
    positions: int | None = None,
    centred: bool | None = None,
    downstream: bool = False,
) -> list[PatchMoments]:
    """Moments of a layer's input patches in ``model`` and its outputs in ``reference``.

    Parameters
    ----------
    model : nn.Module
        The network with the layers below approximated; its ``layer`` may be, too.
    reference : nn.Module
        The full network, whose ``layer`` is an ``nn.Conv2d``, or an ``nn.Linear``, whose patches
        are its inputs.
    layer : str
    loader : Dataset or DataLoader
        Images, with labels or without.
    batch_size : int
        For data given as a data set.
    positions : int, optional
        At most so many of each image's output positions are looked at, drawn at random from a
        fixed seed; by default all. Neighbours are alike, so that a few hundred tell the most.
    centred : bool, optional
        Second moments about the mean, for a layer with a bias that can take the mean up; by default
        where the convolution has one.
    downstream : bool
        In place of the outputs in ``reference`` take what serves the sum that they enter and the
        ReLU behind it best, as ``model`` is (:mod:`cpnb.training.targets`).

    Returns
    -------
    list of PatchMoments
        One a group, float64.

    Raises
    ------
    ValueError
        loader has no samples; there is NaN or Inf at the layer; its patches are all alike (without
        a bias, all zero).
    """
    linear = isinstance(find_part(reference, layer, "reference"), nn.Linear)
    conv = as_convolution(reference, layer) if linear else convolution_of(reference, layer)
    find_part(model, layer, "model")
    groups, count, device = [], 0, device_of(model)
    generator = torch.Generator().manual_seed(0)
    with evaluation_mode(model), evaluation_mode(reference):
        target = Target(model, reference, layer, downstream)
        for images in image_batches(loader, batch_size):
            images = images.to(device)
            for x, z in target.pairs(images):
                if linear:
                    x, z = (maps.flatten(0, -2)[..., None, None] for maps in (x, z))
                padded = _padded(x, conv)
                rows, columns = (len(_starts(padded.shape[i], conv, i)) for i in (-2, -1))
                if z.shape[-2:] != (rows, columns) or len(z) != len(x):
                    raise ValueError(
                        f"layer {layer!r} has {len(x) * rows * columns} positions in model and "
                        f"{z[:, 0].numel()} in reference; they must be of one shape"
                    )
                chosen = _chosen(rows * columns, positions, generator).to(device)
                patches = _patches(padded, conv, chosen // columns, chosen % columns)
                outputs = z.flatten(2)[:, :, chosen].transpose(1, 2).flatten(0, 1)  # (n, T)
                pairs = list(zip(patches, outputs.chunk(conv.groups, 1), strict=True))
                groups = groups or [_Sums(p.mean(0), z.mean(0)) for p, z in pairs]
                for group, pair in zip(groups, pairs, strict=True):
                    group.add(*pair)
                count += patches.shape[1]
    if not count:
        raise ValueError("loader has no samples")
    centred = conv.bias is not None if centred is None else centred
    found = [group.moments(count, centred) for group in groups]
    if not all(
        part.isfinite().all() for group in found for part in (group.covariance, group.cross)
    ):
        raise ValueError(f"loader gives NaN or Inf at layer {layer!r}; its maps must be finite")
    if all(group.constant for group in found):
        raise OnePatch(f"layer {layer!r} sees one patch alone in loader: nothing to fit to")
    return found


class _Sums:
    """Sums about a point near the mean: float32 products far from it would lose the variance."""

    def __init__(self, patch: Tensor, output: Tensor):
        self.patch, self.output = patch, output  # (P,), (T,)
        self.totals = [0, 0, 0, 0]

    def add(self, patches: Tensor, outputs: Tensor) -> None:
        """Patches (n, P) and outputs (n, T)."""
        p, z = patches - self.patch, outputs - self.output
        parts = p.double().sum(0), z.double().sum(0), (p.T @ p).double(), (z.T @ p).double()
        self.totals = [a + b for a, b in zip(self.totals, parts, strict=True)]

    def moments(self, count: int, centred: bool) -> PatchMoments:
        patch, output, covariance, cross = (total / count for total in self.totals)
        covariance, cross = covariance - patch.outer(patch), cross - output.outer(patch)
        patch, output = patch + self.patch, output + self.output
        if not centred:
            covariance, cross = covariance + patch.outer(patch), cross + output.outer(patch)
        return PatchMoments(patch, output, covariance, cross, count)


def _padded(x: Tensor, conv: nn.Conv2d) -> Tensor:
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return F.pad(x, conv._reversed_padding_repeated_twice, mode=mode)


def _starts(size: int, conv: nn.Conv2d, axis: int) -> range:
    """Where along an axis (-2 or -1) of the padded maps the kernel is laid."""
    reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
    return range(0, size - reach, conv.stride[axis])


def _chosen(number: int, most: int | None, generator) -> Tensor:
    """Output positions, counted row by row."""
    if most is None or number <= most:
        return torch.arange(number)
    return torch.randperm(number, generator=generator)[:most]


def _patches(padded: Tensor, conv: nn.Conv2d, rows: Tensor, columns: Tensor) -> Tensor:
    """Patches under the kernel at output rows and columns (k,): (groups, N·k, S/groups·d_y·d_x)."""
    (dy, dx), (sy, sx), (ey, ex) = conv.kernel_size, conv.stride, conv.dilation
    i = rows[:, None, None] * sy + torch.arange(dy, device=rows.device)[:, None] * ey
    j = columns[:, None, None] * sx + torch.arange(dx, device=rows.device) * ex
    maps_last = padded.permute(0, 2, 3, 1).contiguous()  # whole rows of maps are read at once
    found = maps_last[:, i, j].unflatten(-1, (conv.groups, -1))  # (N, k, d_y, d_x, groups, S/g)
    return found.permute(4, 0, 1, 5, 2, 3).flatten(3).flatten(1, 2)


def as_convolution(reference: nn.Module, layer: str) -> nn.Conv2d:
    """The 1×1 convolution that computes what a fully-connected layer does."""
    linear = plain(find_part(reference, layer, "reference"), nn.Linear, f"layer {layer!r}")
    bias = linear.bias is not None
    conv = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=bias, device="meta")
    conv.weight = nn.Parameter(linear.weight.detach()[:, :, None, None])
    conv.bias = nn.Parameter(linear.bias.detach()) if bias else None
    return conv


def convolution_of(reference: nn.Module, layer: str) -> nn.Conv2d:
    """A convolution with the weights that the layer uses."""
    conv = find_part(reference, layer, "reference")
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(
            f"layer {layer!r} of reference must be an nn.Conv2d, got {type(conv).__name__}"
        )
    return plain(conv, name=f"layer {layer!r} of reference")
