"""One layer factored and fitted in its place, at any number of ranks, without labels.

What the data say of the layer is gathered once. A CP layer is fitted to the moments of its input
patches (module `cpnb.training.patches`); a 1×1 or fully-connected layer, which has no space to
factor, is cut by the SVD in the metric of its inputs (Denton et al., 2014).
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cpnb.cp.norms import covariances
from cpnb.layers.copies import copied
from cpnb.layers.cp import CPConv2d
from cpnb.layers.surgery import decompose
from cpnb.training.moments import OnePatch, patch_moments
from cpnb.training.patches import Wanted, fit_to_moments, regression, wanted_of
from cpnb.training.reconstruct import input_covariance

POSITIONS = 256  # of each image: neighbouring patches are alike
LARGEST = 4608  # values of a patch of a dense layer to refit: 3×3 of 512 maps
LARGE = 1000  # values of a patch from which on a step of the solver, or of the fit, is long
DAMPING = 1e-4  # of the terms, a tenth of fit_to_patches' own: less error, and no training follows


class Steps(NamedTuple):
    """How long to look for the factors of a CP layer.

    With data a large layer's fit starts from where the solver does, from a few sweeps of ALS: on
    those that were tried, a step of the fit gained more than one of the solver in the same time.
    """

    solver: int  # of Gauss–Newton on the kernel
    fit: int  # of L-BFGS on the moments, if there are data


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
    outputs : Tensor, optional
        Of a CP layer how much its outputs matter, (T, T), from
        :func:`cpnb.training.importance.output_metrics`; by default all alike.
    """

    def __init__(
        self, model: nn.Module, reference: nn.Module, layer: str, method: str, data=None,
        outputs: Tensor | None = None,
    ):  # fmt: skip
        self.method, self.moments, self.covariance = method, None, None
        self.outputs = outputs
        self.alone = nn.Sequential()
        self.alone.layer = copied(reference.get_submodule(layer))
        self.large = is_large(self.alone.layer.weight.shape)
        if data is None:
            return
        if method == "nls":
            self.moments = patch_moments(
                model, reference, layer, data, positions=POSITIONS, centred=True, downstream=True
            )
        else:
            self.covariance = input_covariance(model, layer, data)

    def at(self, rank: int, steps: Steps, **solver_options) -> tuple[nn.Module, float]:
        """The factored layer, and its relative error in the metric of the data and of the outputs.

        Parameters
        ----------
        rank : int
        steps : Steps
            For CP.
        **solver_options
            Of :func:`cpnb.cp_nls`, for CP.
        """
        solver = 0 if self.large and self.moments is not None else steps.solver
        solver_options = {"n_iter_max": solver} | solver_options
        if self.method != "nls":
            options = {"weight": self.covariance}
            factored = decompose(self.alone, {"layer": rank}, self.method, **options).layer
            return factored, self.cut_errors([rank])[rank]
        if self.moments is None:
            factored = decompose(self.alone, {"layer": rank}, **solver_options).layer
            return factored, factored.rel_error
        # The solver takes what each mode by itself knows of the patches; the fit takes the rest.
        conv = self.alone.layer
        first = self.outputs if conv.groups == 1 else None
        metric = [first, *self.moments[0].by_mode(conv.kernel_size)]
        factored = CPConv2d.from_conv(conv, rank, weight=metric, **solver_options)
        factored.add_bias()
        reports = fit_to_moments(factored, conv, self.moments, steps.fit, DAMPING, self._wanted)
        return factored, math.sqrt(sum(report["after"] ** 2 for report in reports) / len(reports))

    def cut_errors(self, ranks) -> dict[int, float]:
        """Relative errors of the SVD at each rank, from one set of singular values."""
        squares = self._squares
        whole = max(float(squares.sum()), 1e-300)
        return {r: math.sqrt(float(squares[:, r:].clamp_min(0).sum()) / whole) for r in ranks}

    @cached_property
    def _wanted(self) -> list[Wanted]:
        return wanted_of(self.alone.layer, self.moments, self.outputs)

    @cached_property
    def _squares(self) -> Tensor:
        """Squared singular values of WΣ^½ for each group, (groups, T/groups), falling."""
        dense = self.alone.layer
        groups = getattr(dense, "groups", 1)
        kernels = dense.weight.detach().double().flatten(1).unflatten(0, (groups, -1))
        if self.covariance is None:
            return torch.linalg.eigvalsh(kernels @ kernels.mT).flip(1)
        sigmas = torch.stack(covariances(self.covariance, groups * kernels.shape[-1], groups))
        return torch.linalg.eigvalsh(kernels @ sigmas.to(kernels) @ kernels.mT).flip(1)


def is_large(kernel: tuple[int, ...]) -> bool:
    """Whether steps on a layer with a kernel of that shape, (T, S/groups, ...), are long."""
    return math.prod(kernel[1:]) >= LARGE


@torch.no_grad()
def refit(model: nn.Module, reference: nn.Module, layer: str, data) -> bool:
    """Let a layer that stays dense make up, in place, for the errors of those below it.

    Its weights become those of the ridge regression of its outputs in ``reference`` on its inputs
    in ``model``, drawn towards what they were. A layer of which the data tell too little, with less
    than four patches for each value of a patch, stays as it is.

    Returns
    -------
    bool
        Whether it was changed.
    """
    own, dense = (m.get_submodule(layer) for m in (model, reference))
    groups = getattr(dense, "groups", 1)
    if dense.weight[0].numel() > LARGEST:
        return False
    try:
        moments = patch_moments(model, reference, layer, data, positions=POSITIONS, downstream=True)
    except OnePatch:
        return False
    if moments[0].count < 4 * len(moments[0].patch_mean):
        return False
    kernels = dense.weight.double().flatten(1).chunk(groups)
    found = [regression(k, m)[0] for k, m in zip(kernels, moments, strict=True)]
    own.weight.copy_(torch.cat(found).view_as(own.weight))
    if own.bias is not None:
        means = [m.output_mean - k @ m.patch_mean for k, m in zip(found, moments, strict=True)]
        own.bias.copy_(torch.cat(means))
    return True
