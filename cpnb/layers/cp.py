"""CPConv2d: a convolution replaced by the four small ones of the paper.

With K(i, j, s, t) ≈ Σ_r Ky(i, r) Kx(j, r) Ks(s, r) Kt(t, r) (Lebedev et al., ICLR 2015, eq. 5)
the convolution becomes a 1×1 one (S → R), a d×1 and a 1×d depthwise one (R → R), and a 1×1 one
(R → T) that carries the bias. From maps of H×W to maps of H'×W' it takes
R(S·HW + d·H'W + d·H'W' + T·H'W') multiplies in place of S·T·d²·H'W'.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cpnb.cp.algebra import CPResult
from cpnb.cp.als import cp_als, cp_greedy
from cpnb.cp.nls import cp_nls, cp_nls_batch
from cpnb.cp.norms import covariances
from cpnb.layers.factored import axis_options, place

SOLVERS = {"nls": cp_nls, "als": cp_als, "greedy": cp_greedy}


class CPConv2d(nn.Module):
    """Four plain ``nn.Conv2d`` in a row: ``reduce``, ``vertical``, ``horizontal``, ``expand``.

    Made by :meth:`from_conv`. Being plain modules, they are saved, compiled and exported like any
    others. A grouped convolution is decomposed group by group, each with its own ``rank`` terms.

    Attributes
    ----------
    rank : int
        R, per group.
    rel_error, degeneracy : float
        ‖K−K̂‖/‖K‖ and Σ‖term‖²/‖K‖² of the fit that made the layer (over all groups); they do
        not follow later training.
    """

    def __init__(self, conv: nn.Conv2d, rank: int):
        """Build the layer's shape for ``conv``; :meth:`from_conv` fills in the factors."""
        where = place(conv)
        groups, mid = conv.groups, conv.groups * rank
        (kh, kw), (along_y, along_x) = conv.kernel_size, axis_options(conv)
        depthwise = {"groups": mid, "bias": False, **where}
        super().__init__()
        self.reduce = nn.Conv2d(conv.in_channels, mid, 1, groups=groups, bias=False, **where)
        self.vertical = nn.Conv2d(mid, mid, (kh, 1), **along_y, **depthwise)
        self.horizontal = nn.Conv2d(mid, mid, (1, kw), **along_x, **depthwise)
        self.expand = nn.Conv2d(
            mid, conv.out_channels, 1, groups=groups, bias=conv.bias is not None, **where
        )
        self.rank = rank
        self.rel_error = self.degeneracy = math.nan

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, rank: int, method: str = "nls", **solver_options):
        """Decompose a convolution's kernel and return the factored layer.

        Parameters
        ----------
        conv : nn.Conv2d
            Kernel (T, S/groups, d_y, d_x), any stride, padding, padding mode, dilation and groups.
        rank : int
            R, the number of rank-one terms of each group's kernel.
        method : {"nls", "als", "greedy"}
        **solver_options
            Passed to :func:`cpnb.cp_nls`, :func:`cpnb.cp_als` or :func:`cpnb.cp_greedy`. For a
            grouped convolution ``weight`` may be (S, S), of which each group takes its block.

        Returns
        -------
        CPConv2d
            On ``conv``'s device and in its dtype and training mode; ``conv`` is left untouched.

        Raises
        ------
        TypeError
            ``conv`` is not an ``nn.Conv2d`` (transposed and lazy ones are not); rank no integer.
        ValueError
            Unknown ``method``; rank < 1; an all-zero or non-finite kernel.
        """
        check_conv(conv)
        if method not in SOLVERS:
            raise ValueError(f"method must be one of {', '.join(SOLVERS)}, got {method!r}")
        kernels = conv.weight.detach().chunk(conv.groups)
        fits = _solve(kernels, rank, method, conv.in_channels, **solver_options)
        layer = cls(conv, max(fit.rank for fit in fits))
        layer._load(fits, kernels)
        if conv.bias is not None:
            with torch.no_grad():
                layer.expand.bias.copy_(conv.bias)
            layer.expand.bias.requires_grad_(conv.bias.requires_grad)
        for part in layer.children():
            part.weight.requires_grad_(conv.weight.requires_grad)
        return layer.train(conv.training)

    @torch.no_grad()
    def _load(self, fits: list[CPResult], kernels: tuple[Tensor, ...]) -> None:
        """Write each group's factors Kt (T, R), Ks (S, R), Ky (d, R), Kx (d, R) into the layers."""
        kt, ks, ky, kx = (
            torch.cat([_pad_rank(fit.factors[n], self.rank).T for fit in fits])  # (groups·R, I_n)
            for n in range(4)
        )
        self.reduce.weight.copy_(ks[:, :, None, None])  # (R, S) → (R, S, 1, 1)
        self.vertical.weight.copy_(ky[:, None, :, None])  # (R, d) → (R, 1, d, 1)
        self.horizontal.weight.copy_(kx[:, None, None, :])  # (R, d) → (R, 1, 1, d)
        expand = [part.T for part in kt.chunk(len(fits))]  # (T, R) a group
        self.expand.weight.copy_(torch.cat(expand)[:, :, None, None])
        # In plain L2, also where the solver minimised another norm.
        whole = sum(k.double().square().sum() for k in kernels)
        pairs = zip(kernels, fits, strict=True)
        rest = sum((k - fit.to_tensor()).double().square().sum() for k, fit in pairs)
        terms = sum(math.prod(u.double().square().sum(0) for u in f.factors).sum() for f in fits)
        self.rel_error, self.degeneracy = float((rest / whole).sqrt()), float(terms / whole)

    @torch.no_grad()
    def to_conv(self) -> nn.Conv2d:
        """The dense ``nn.Conv2d``: rebuilt kernel (T, S/groups, d_y, d_x), the same options."""
        groups, v, h = self.expand.groups, self.vertical, self.horizontal
        same = isinstance(v.padding, str)
        conv = nn.Conv2d(
            self.reduce.in_channels,
            self.expand.out_channels,
            (v.kernel_size[0], h.kernel_size[1]),
            stride=(v.stride[0], h.stride[1]),
            padding=v.padding if same else (v.padding[0], h.padding[1]),
            dilation=(v.dilation[0], h.dilation[1]),
            groups=groups,
            bias=self.expand.bias is not None,
            padding_mode=v.padding_mode,
            device=self.expand.weight.device,
            dtype=self.expand.weight.dtype,
        )
        kernels = [
            torch.einsum("tr,rs,ri,rj->tsij", kt, ks, ky, kx)
            for kt, ks, ky, kx in zip(
                self.expand.weight.flatten(1).chunk(groups),
                self.reduce.weight.flatten(1).chunk(groups),
                v.weight.flatten(1).chunk(groups),
                h.weight.flatten(1).chunk(groups),
                strict=True,
            )
        ]
        conv.weight.copy_(torch.cat(kernels))
        if conv.bias is not None:
            conv.bias.copy_(self.expand.bias)
        return conv.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, H, W) → (N, T, H', W'), as the convolution it replaces."""
        return self.expand(self.horizontal(self.vertical(self.reduce(x))))

    def extra_repr(self) -> str:
        return f"rank={self.rank}, rel_error={self.rel_error:.3g}, degeneracy={self.degeneracy:.3g}"


def check_conv(conv, name: str = "conv") -> None:
    """Raise unless ``conv`` is a plain 2-D convolution; ``name`` is what the message calls it."""
    if isinstance(conv, CPConv2d):
        raise TypeError(f"{name} is already a CPConv2d; use its to_conv() to decompose it anew")
    lazy = isinstance(conv, nn.modules.lazy.LazyModuleMixin)
    if not isinstance(conv, nn.Conv2d) or lazy:
        raise TypeError(f"{name} must be an nn.Conv2d, got {type(conv).__name__}")


def _pad_rank(factor: Tensor, rank: int) -> Tensor:
    """Zero columns up to ``rank``: the greedy method may need fewer terms for one of the groups."""
    return nn.functional.pad(factor, (0, rank - factor.shape[1]))


def _solve(kernels, rank, method, inputs, weight=None, **options) -> list[CPResult]:
    """A fit for each group's kernel (T/groups, S/groups, d, d); by NLS all of them as one batch."""
    if weight is not None:
        if method != "nls":
            raise ValueError(f"weight goes with method 'nls', got {method!r}")
        weights = [weight]
        if isinstance(weight, Tensor):
            weights = covariances(weight, inputs, len(kernels))
        options["weight"] = weights[0] if len(kernels) == 1 else weights
    single = {"callback", "n_starts"} & set(options) or not isinstance(options.get("init", ""), str)
    if method == "nls" and len(kernels) > 1 and not single:
        return cp_nls_batch(kernels, rank, **options)
    return [SOLVERS[method](kernel, rank, **options) for kernel in kernels]
