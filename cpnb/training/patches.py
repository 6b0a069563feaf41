"""A CP layer fitted to data without gradients: the whole covariance of its input patches.

The output of a convolution is W p + b, p being the patch (S d_y d_x values) under the kernel. With
p̂ the patch as it arrives when the layers below are approximated already, the expected squared
error of the outputs, the *data reconstruction* of Jaderberg et al. (2014), is

    E‖W p + b − Ŵ p̂ − b̂‖² = ‖(W* − Ŵ) Σ^½‖² + what no layer can avoid,  b̂ = E[z] − Ŵ E[p̂],

with Σ = Cov(p̂, p̂) and W* = Cov(W p, p̂) Σ⁻¹: for p̂ = p the input-covariance metric of Denton et al.
(2014), and the norm of Kalle et al. (arXiv 2511.04494). Everything is in the means and two matrices
of second moments, gathered in one pass; labels are not used. Unlike a metric for the input maps
alone this one is no change of basis of the CP problem, so the factors are found by L-BFGS, with the
output factor projected out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cpnb.cp.algebra import balance
from cpnb.cp.norms import covariances, roots
from cpnb.layers.cp import CPConv2d
from cpnb.layers.plain import own_weight
from cpnb.training.gradients import require_trainable
from cpnb.training.moments import PatchMoments, convolution_of, patch_moments
from cpnb.training.seen import find_part

RIDGE = 1e-3  # share of the mean variance: patches that the data do not excite keep a say
DAMPING = 1e-3  # the same for the terms: keeps large ones from cancelling (degeneracy)
LARGE = 1200  # values of a patch from which on float32 must do, for time and memory


def fit_to_patches(
    model: nn.Module,
    reference: nn.Module,
    layer: str,
    loader,
    n_iter_max: int = 60,
    damping: float = DAMPING,
    positions: int | None = None,
) -> list[dict]:
    """Fit a CP layer of ``model``, in place, to the outputs of the layer it replaced.

    Start from any fit of the kernel; go from the lowest layer to the highest, so that each makes up
    for the errors of those below it. A few hundred images serve. Where the CP layer has a bias it
    is fitted too, even if the convolution had none.

    Parameters
    ----------
    model, reference, layer, loader
        See :func:`patch_moments`; the layer is a :class:`cpnb.CPConv2d` in ``model``.
    n_iter_max : int
        Steps of L-BFGS; with none only the output factor and the bias are fitted.
    damping : float
        Ridge on the terms, as a share of their mean size. Less of it gives less error and larger
        terms that cancel (degeneracy), which are harder to fine-tune.
    positions : int, optional
        Of each image, see :func:`patch_moments`.

    Returns
    -------
    list of dict
        For each group ``before`` and ``after``, the relative error ‖(W*−Ŵ)Σ^½‖/‖W*Σ^½‖ of the
        given factors and of the new ones, both with the best bias, and the ``degeneracy``
        Σ‖term‖²/‖W*‖² of these. Given factors that are the better ones stay, as do those of a group
        whose patches are all alike, or whose kernel is all zeros (errors 0: the bias is
        enough).

    Raises
    ------
    TypeError
        The layer is no `CPConv2d` in model, or no ``nn.Conv2d`` in reference, or computes something
        else than such a layer does.
    ValueError
        There is no such layer; its stride, padding, dilation or the like differ in model and
        reference; what :func:`patch_moments` raises.
    """
    factored = find_part(model, layer, "model")
    if not isinstance(factored, CPConv2d):
        raise TypeError(
            f"layer {layer!r} of model must be a CPConv2d, got {type(factored).__name__}; other "
            "layers are fitted by reconstruct_on_data"
        )
    conv = convolution_of(reference, layer)
    _require_own_weights(factored, layer)
    for name, value in factored.options.items():
        if value != getattr(conv, name):
            raise ValueError(
                f"layer {layer!r} has {name} {value} in model, {getattr(conv, name)} in reference"
            )
    centred = factored.bias is not None
    moments = patch_moments(model, reference, layer, loader, positions=positions, centred=centred)
    return fit_to_moments(factored, conv, moments, n_iter_max, damping)


def fit_to_moments(
    factored: CPConv2d,
    conv: nn.Conv2d,
    moments: list[PatchMoments],
    n_iter_max: int = 60,
    damping: float = DAMPING,
    wanted: list[Wanted] | None = None,
) -> list[dict]:
    """Fit a CP layer, in place, to the moments of the convolution ``conv`` that it replaces.

    Parameters and result as of :func:`fit_to_patches`, which gathers the moments first; ``wanted``
    is what :func:`wanted_of` makes of them, if several layers are fitted to the same.
    """
    wanted = wanted or wanted_of(conv, moments)
    parts = [
        part.weight.detach().to(wanted[0].kernel).flatten(1).chunk(conv.groups)
        for part in (factored.reduce, factored.vertical, factored.horizontal, factored.expand)
    ]
    fits = [
        _fit(group, group.enter(start), n_iter_max, damping)
        for group, start in zip(wanted, zip(*parts, strict=True), strict=True)
    ]
    _load(factored, [g.leave(fit) for g, (fit, _) in zip(wanted, fits, strict=True)], moments)
    return [report for _, report in fits]


class Wanted(NamedTuple):
    """What one group of a layer is to come near to: W* in the metric Σ, or F^½W* in that of F too.

    Outputs are weighed by a change of basis, so the fit itself knows nothing of F.
    """

    kernel: Tensor  # W (T, P)
    target: Tensor  # W* (T, P)
    sigma: Tensor  # Σ with its ridge, (P, P)
    alone: bool  # whether the bias is enough
    roots: tuple[Tensor, Tensor] | None = None  # F^½ and F^−½, (T, T)

    def enter(self, factors) -> list[Tensor]:
        """Factors, that of the outputs (T, R) last, in this basis."""
        *parts, output = factors
        return [*parts, output if self.roots is None else self.roots[0] @ output]

    def leave(self, factors) -> list[Tensor]:
        """Factors, that of the outputs (T, R) first, in the layer's own basis."""
        output, *parts = factors
        return [output if self.roots is None else self.roots[1] @ output, *parts]


def wanted_of(
    conv: nn.Conv2d, moments: list[PatchMoments], outputs: Tensor | None = None
) -> list[Wanted]:
    """What the moments ask of each group of a convolution; in float32 where a patch is large.

    ``outputs`` is F, (T, T), as :func:`cpnb.training.importance.output_metrics` gives it.
    """
    large = len(moments[0].patch_mean) >= LARGE
    dtype = torch.float32 if large else torch.float64
    kernels = conv.weight.detach().to(dtype).flatten(1).chunk(conv.groups)
    metrics = [None] * conv.groups
    if outputs is not None:
        metrics = covariances(outputs, conv.out_channels, conv.groups)
    return [_wanted(*group) for group in zip(kernels, moments, metrics, strict=True)]


def _wanted(kernel: Tensor, moments: PatchMoments, outputs: Tensor | None) -> Wanted:
    if moments.constant or not kernel.any():
        return Wanted(kernel, kernel, kernel, alone=True)
    target, sigma = regression(kernel, moments)
    if outputs is None:
        return Wanted(kernel, target, sigma, alone=False)
    root, inverse = (part.to(kernel) for part in roots(outputs))
    return Wanted(root @ kernel, root @ target, sigma, False, (root, inverse))


@torch.inference_mode(False)  # it takes gradients, whatever it is called in
def _fit(wanted: Wanted, start, n_iter_max: int, damping: float) -> tuple[list, dict]:
    """Balanced factors Kt (T, R), Ks (S, R), Ky, Kx (d, R) of one group, and what became of it."""
    *parts, output = start  # (R, S), (R, d_y), (R, d_x), (T, R)
    kernel, target, sigma, alone, _ = wanted
    if alone:
        size = kernel.square().sum().clamp_min(1e-300)
        terms = float((output * _basis(parts)[1]).square().sum() / size)
        factors = balance([output, *(part.T for part in parts)])
        return factors, {"before": 0.0, "after": 0.0, "degeneracy": terms}
    basis, norms = _basis(parts)
    output = output * norms
    before = after = _error(output, basis, target, sigma)
    new_parts = _descended(parts, target, sigma, n_iter_max, damping)
    new_basis, new_norms = _basis(new_parts)
    cross, root = _normal_equations(new_basis, target @ sigma, new_basis @ sigma, damping)
    new_output = torch.cholesky_solve(cross.T, root).T
    error = _error(new_output, new_basis, target, sigma)
    if error < before:  # not so if the given factors are exact: the damping has its price
        parts, output, norms, after = new_parts, new_output, new_norms, error
    degeneracy = float(output.square().sum() / target.square().sum())
    factors = balance([output / norms, *(part.T for part in parts)])
    return factors, {"before": before, "after": after, "degeneracy": degeneracy}


def regression(kernel: Tensor, moments: PatchMoments) -> tuple[Tensor, Tensor]:
    """W* (T, P) of the ridge regression that is drawn towards W, not towards zero; and its Σ."""
    covariance, cross = moments.covariance.to(kernel), moments.cross.to(kernel)
    sigma = covariance + RIDGE * _eye(covariance)
    return kernel + torch.linalg.solve(sigma, (cross - kernel @ covariance).T).T, sigma


def _error(output: Tensor, basis: Tensor, target: Tensor, sigma: Tensor) -> float:
    """‖(W*−Ŵ)Σ^½‖/‖W*Σ^½‖."""
    rest = target - output @ basis
    left, whole = ((part @ sigma * part).sum().clamp_min(0) for part in (rest, target))
    return float((left / whole).sqrt())


def _descended(
    parts, target: Tensor, sigma: Tensor, n_iter_max: int, damping: float
) -> list[Tensor]:
    """The parts (R, S), (R, d_y), (R, d_x) by L-BFGS; their output factor follows from them."""
    if not n_iter_max:
        return parts
    # In the metric of each mode, as unknowns U L, convergence is no faster: it was tried.
    parts = [part.clone().requires_grad_() for part in parts]
    optimizer = torch.optim.LBFGS(
        parts, max_iter=n_iter_max, history_size=20, line_search_fn="strong_wolfe",
        tolerance_change=1e-9, tolerance_grad=1e-9,
    )  # fmt: skip
    product = target @ sigma
    whole = (product * target).sum()

    def closure() -> Tensor:
        optimizer.zero_grad()
        basis = _basis(parts)[0]
        loss, slope = _projected(basis.detach(), product, sigma, whole, damping)
        basis.backward(slope)
        return loss

    optimizer.step(closure)
    return [part.detach() for part in parts]


def _projected(
    basis: Tensor, product: Tensor, sigma: Tensor, whole: Tensor, damping: float
) -> tuple[Tensor, Tensor]:
    """The share of ‖W*Σ^½‖² that is left with the best Kt, and its gradient by the basis B (R, P).

    That is 2 Ktᵀ(Kt B − W*)Σ/‖W*Σ^½‖² (Golub & Pereyra, 1973), which needs no second product with
    Σ, the largest of them; autograd would take two more.
    """
    mixed = basis @ sigma
    cross, root = _normal_equations(basis, product, mixed, damping)
    output = torch.cholesky_solve(cross.T, root).T
    slope = output.T @ (output @ mixed - product)
    return 1 - (cross * output).sum() / whole, slope * (2 / whole)


def _basis(parts) -> tuple[Tensor, Tensor]:
    """Terms without their output factor as rows of unit length (R, S d_y d_x), and the lengths."""
    rows = torch.einsum("rs,ri,rj->rsij", *parts).flatten(1)
    norms = rows.norm(dim=1)
    return rows / norms[:, None].clamp_min(1e-30), norms.clamp_min(1e-30)


def _normal_equations(
    basis: Tensor, product: Tensor, mixed: Tensor, damping: float
) -> tuple[Tensor, Tensor]:
    """W*ΣBᵀ (T, R) and the Cholesky root L of BΣBᵀ, from B, W*Σ and BΣ.

    The best Kt is W*ΣBᵀ (LLᵀ)⁻¹.
    """
    gram = mixed @ basis.T
    return product @ basis.T, torch.linalg.cholesky(gram + damping * _eye(gram))


def _eye(matrix: Tensor) -> Tensor:
    """The identity times the mean of the diagonal."""
    return torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device) * (
        matrix.diagonal().mean().detach()
    )


@torch.no_grad()
def _load(layer: CPConv2d, factors, moments: list[PatchMoments]) -> None:
    kt, ks, ky, kx = ([group[n] for group in factors] for n in range(4))
    layer.expand.weight.copy_(torch.cat(kt)[:, :, None, None])
    layer.reduce.weight.copy_(torch.cat([u.T for u in ks])[:, :, None, None])
    layer.vertical.weight.copy_(torch.cat([u.T for u in ky])[:, None, :, None])
    layer.horizontal.weight.copy_(torch.cat([u.T for u in kx])[:, None, None, :])
    if layer.bias is None:
        return
    kernels = layer.kernel().double().flatten(1).chunk(len(moments))
    pairs = zip(kernels, moments, strict=True)
    layer.expand.bias.copy_(torch.cat([m.output_mean - k @ m.patch_mean for k, m in pairs]))


def _require_own_weights(factored: CPConv2d, layer: str) -> None:
    """Raise unless the layer's factors can be written, and are what it computes with."""
    if type(factored).forward is not CPConv2d.forward or "forward" in vars(factored):
        raise TypeError(f"layer {layer!r} of model must compute as a CPConv2d does")
    for part in factored.children():
        own_weight(part)
    if not torch.is_inference_mode_enabled():  # in it, what was made in it may be written
        require_trainable(factored, f"layer {layer!r} of model")
