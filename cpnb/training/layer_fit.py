"""One layer factored and fitted in its place, at any number of ranks, without labels.

What the data say of the layer is gathered once. A CP layer is fitted to the moments of its input
patches (module `cpnb.training.patches`); a 1×1 or fully-connected layer, which has no space to
factor, is cut by the SVD in the metric of its inputs (Denton et al., 2014).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cpnb.layers.copies import copied
from cpnb.layers.cp import CPConv2d
from cpnb.layers.surgery import decompose
from cpnb.training.moments import PatchMoments, patch_moments
from cpnb.training.patches import LARGE, fit_to_moments
from cpnb.training.reconstruct import input_covariance

POSITIONS = 256  # of each image: neighbouring patches are alike
DAMPING = 1e-4  # of the terms, a tenth of fit_to_patches' own: less error, and no training follows


class LayerFit:
    """What data say of one layer, and the layer factored by a method at any rank.

    Parameters
    ----------
    model : nn.Module
        The network with the layers below approximated, or as it was.
    reference : nn.Module
        The full network, whose ``layer`` is an ``nn.Conv2d`` or an ``nn.Linear``.
    layer : str
    method : str
        As for :func:`cpnb.decompose`.
    data : Dataset or DataLoader, optional
        Images, with labels or without. Without them the kernel alone is fitted, in plain L2.
    """

    def __init__(self, model: nn.Module, reference: nn.Module, layer: str, method: str, data=None):
        self.method, self.moments, self.covariance = method, None, None
        self.alone = nn.Sequential()
        self.alone.layer = copied(reference.get_submodule(layer))
        if data is None:
            return
        if method == "nls":
            self.moments = patch_moments(
                model, reference, layer, data, positions=POSITIONS, centred=True
            )
        else:
            self.covariance = input_covariance(model, layer, data)

    def at(self, rank: int, fit_steps: int, **solver_options) -> tuple[nn.Module, float]:
        """The factored layer, and its relative error in the metric of the data.

        Parameters
        ----------
        rank : int
        fit_steps : int
            Steps of L-BFGS on the moments, for CP.
        **solver_options
            Of :func:`cpnb.cp_nls`, for CP.
        """
        options = solver_options if self.method == "nls" else {"weight": self.covariance}
        factored = decompose(self.alone, {"layer": rank}, self.method, **options).layer
        if self.moments is not None:
            return factored, _fitted(factored, self.alone.layer, self.moments, fit_steps)
        return factored, relative_error(self.alone.layer, factored, self.covariance)


def _fitted(factored: CPConv2d, conv: nn.Conv2d, moments: list[PatchMoments], steps: int) -> float:
    factored.add_bias()
    # A step on a large covariance takes seconds; of few the output factor's projection is most.
    steps = steps if len(moments[0].patch_mean) < LARGE else min(steps, 10)
    reports = fit_to_moments(factored, conv, moments, steps, DAMPING)
    return math.sqrt(sum(report["after"] ** 2 for report in reports) / len(reports))


def relative_error(dense: nn.Module, factored: nn.Module, covariance: Tensor | None) -> float:
    """‖(W−Ŵ)Σ^½‖/‖WΣ^½‖ of a layer without extent in space; without Σ, of any, ‖W−Ŵ‖/‖W‖."""
    if covariance is None:
        return factored.rel_error
    weight = dense.weight.detach().double().flatten(1)
    rest = weight - factored.kernel().detach().double().flatten(1)
    groups = getattr(dense, "groups", 1)
    blocks = torch.stack([b.chunk(groups, 1)[g] for g, b in enumerate(covariance.chunk(groups))])
    left, whole = (
        torch.einsum(
            "gts,gsu,gtu->",
            part.unflatten(0, (groups, -1)),
            blocks,
            part.unflatten(0, (groups, -1)),
        )
        for part in (rest, weight)
    )
    return math.sqrt(max(float(left / whole), 0.0)) if whole > 0 else 0.0
