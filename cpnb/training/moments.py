"""Means and second moments of the patches under a kernel, and of what the layer makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpnb.layers.plain import plain
from cpnb.training.batches import image_batches
from cpnb.training.evaluation import device_of, evaluation_mode
from cpnb.training.seen import calls_of, find_part, seen

ROUNDING = 1e-6  # share of the mean: float32 maps that spread by less are constant


@dataclass
class PatchMoments:
    """First and second moments of one group's patches p̂ (S d_y d_x) and outputs z (T).

    The second ones are about the mean; about zero where no bias can take the mean up.
    """

    patch_mean: Tensor  # (P,)
    output_mean: Tensor  # (T,)
    covariance: Tensor  # Σ, (P, P)
    cross: Tensor  # Cov(z, p̂), (T, P)

    @property
    def constant(self) -> bool:
        """Whether all patches are alike, up to float32."""
        variance = self.covariance.diagonal().mean()
        return bool(variance <= ROUNDING**2 * self.patch_mean.square().mean())


@torch.no_grad()
def patch_moments(
    model: nn.Module, reference: nn.Module, layer: str, loader, batch_size: int = 32
) -> list[PatchMoments]:
    """Moments of a convolution's input patches in ``model`` and its outputs in ``reference``.

    Parameters
    ----------
    model : nn.Module
        The network with the layers below approximated; its ``layer`` may be, too.
    reference : nn.Module
        The full network, whose ``layer`` is an ``nn.Conv2d``.
    layer : str
    loader : Dataset or DataLoader
        Images, with labels or without.

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
    conv = convolution_of(reference, layer)
    student, teacher = find_part(model, layer, "model"), find_part(reference, layer, "reference")
    groups, count, calls, device = [], 0, None, device_of(model)
    with evaluation_mode(model), evaluation_mode(reference):
        for images in image_batches(loader, batch_size):
            images = images.to(device)
            calls = calls or calls_of(model, student, images)
            sides = seen(model, student, images, calls), seen(reference, teacher, images, calls)
            for (x, _), (_, z) in zip(*sides, strict=True):
                patches = _patches(x, conv)  # (groups, n, P)
                outputs = z.permute(0, 2, 3, 1).flatten(0, 2)  # (n, T)
                if patches.shape[1] != len(outputs):
                    raise ValueError(
                        f"layer {layer!r} has {patches.shape[1]} positions in model and "
                        f"{len(outputs)} in reference; they must be of one shape"
                    )
                pairs = list(zip(patches, outputs.chunk(conv.groups, 1), strict=True))
                groups = groups or [_Sums(p.mean(0), z.mean(0)) for p, z in pairs]
                for group, pair in zip(groups, pairs, strict=True):
                    group.add(*pair)
                count += patches.shape[1]
    if not count:
        raise ValueError("loader has no samples")
    found = [group.moments(count, centred=conv.bias is not None) for group in groups]
    if not all(
        part.isfinite().all() for group in found for part in (group.covariance, group.cross)
    ):
        raise ValueError(f"loader gives NaN or Inf at layer {layer!r}; its maps must be finite")
    if all(group.constant for group in found):
        raise ValueError(f"layer {layer!r} sees one patch alone in loader: nothing to fit to")
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
        return PatchMoments(patch, output, covariance, cross)


def _patches(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Input (N, S, H, W) → patches under the kernel, (groups, N·H'·W', S/groups·d_y·d_x)."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    x = F.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
    columns = F.unfold(x, conv.kernel_size, dilation=conv.dilation, stride=conv.stride)
    columns = columns.unflatten(1, (conv.groups, -1))  # (N, groups, P, H'·W')
    return columns.permute(1, 0, 3, 2).flatten(1, 2)


def convolution_of(reference: nn.Module, layer: str) -> nn.Conv2d:
    """A convolution with the weights that the layer uses."""
    conv = find_part(reference, layer, "reference")
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(
            f"layer {layer!r} of reference must be an nn.Conv2d, got {type(conv).__name__}"
        )
    return plain(conv, name=f"layer {layer!r} of reference")
