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
from cpnb.layers.plain import plain, weight_of
from cpnb.layers.stand_in import ConvStandIn

SOLVERS = {"nls": cp_nls, "als": cp_als, "greedy": cp_greedy}


class CPConv2d(ConvStandIn):
    """Four plain ``nn.Conv2d`` in a row: ``reduce``, ``vertical``, ``horizontal``, ``expand``.

    Made by :meth:`from_conv`. Being plain modules, they are saved, compiled and exported like any
    others. A grouped convolution is decomposed group by group, each with its own ``rank`` terms; a
    group that is all zeros stays so.

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
            ``conv`` is not an ``nn.Conv2d`` (transposed and lazy ones are not) or computes
            something else than it, see :func:`cpnb.layers.plain.plain`; rank no integer.
        ValueError
            Unknown ``method``; rank < 1; an all-zero or non-finite kernel.
        """
        conv = plain(conv)
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

    @property
    def options(self) -> dict:
        """The options of the convolution that it stands for."""
        v, h = self.vertical, self.horizontal
        same = isinstance(v.padding, str)
        return {
            "in_channels": self.reduce.in_channels,
            "out_channels": self.expand.out_channels,
            "kernel_size": (v.kernel_size[0], h.kernel_size[1]),
            "groups": self.expand.groups,
            "stride": (v.stride[0], h.stride[1]),
            "padding": v.padding if same else (v.padding[0], h.padding[1]),
            "dilation": (v.dilation[0], h.dilation[1]),
            "padding_mode": v.padding_mode,
        }

    @property
    def bias(self) -> Tensor | None:
        return self.expand.bias

    def add_bias(self) -> None:
        """Give the layer a bias of zeros if it has none: a fit to data can take up means by it."""
        if self.expand.bias is None:
            weight = self.expand.weight
            zeros = weight.new_zeros(self.expand.out_channels)
            self.expand.bias = nn.Parameter(zeros, requires_grad=weight.requires_grad)

    def kernel(self) -> Tensor:
        """The rebuilt kernel, (T, S/groups, d_y, d_x)."""
        parts = (
            weight_of(part).flatten(1).chunk(self.expand.groups)
            for part in (self.expand, self.reduce, self.vertical, self.horizontal)
        )
        kernels = []
        for last, *others in zip(*parts, strict=True):
            # First without Kt: R S d² numbers, where einsum by itself would write T S R of them.
            others = torch.einsum("rs,ri,rj->rsij", *others)
            kernels.append(torch.tensordot(last, others, 1))
        return torch.cat(kernels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, H, W) → (N, T, H', W'), as the convolution it replaces."""
        return self.expand(self.horizontal(self.vertical(self.reduce(x))))

    def extra_repr(self) -> str:
        return f"rank={self.rank}, rel_error={self.rel_error:.3g}, degeneracy={self.degeneracy:.3g}"


def _pad_rank(factor: Tensor, rank: int) -> Tensor:
    """Zero columns up to ``rank``: the greedy method may need fewer terms for one of the groups."""
    return nn.functional.pad(factor, (0, rank - factor.shape[1]))


def _solve(kernels, rank, method, inputs, weight=None, **options) -> list[CPResult]:
    """A fit for each group's kernel (T/groups, S/groups, d, d)."""
    metrics = [{}] * len(kernels)
    if weight is not None:
        if method != "nls":
            raise ValueError(f"weight goes with method 'nls', got {method!r}")
        by_mode = isinstance(weight, (list, tuple))
        own = [weight] * len(kernels) if by_mode else covariances(weight, inputs, len(kernels))
        metrics = [{"weight": metric} for metric in own]
    # A dead group, one of zeros, has nothing to be found; solvers refuse a layer of nothing else.
    live = [i for i, kernel in enumerate(kernels) if kernel.any()] or [0]
    pairs = [kernels[i] for i in live], [metrics[i] for i in live]
    found = _solve_live(*pairs, rank, method, options)
    fits = dict(zip(live, found, strict=True))
    return [fits[i] if i in fits else _nothing(kernel) for i, kernel in enumerate(kernels)]


def _solve_live(kernels, metrics, rank, method, options) -> list[CPResult]:
    """By NLS all of the kernels as one batch, where that is possible; else one by one."""
    single = {"callback", "n_starts"} & set(options) or not isinstance(options.get("init", ""), str)
    if method == "nls" and len(kernels) > 1 and not single:
        weights = {"weight": [metric["weight"] for metric in metrics]} if metrics[0] else {}
        return cp_nls_batch(kernels, rank, **options, **weights)
    pairs = zip(kernels, metrics, strict=True)
    return [SOLVERS[method](kernel, rank, **options, **metric) for kernel, metric in pairs]


def _nothing(kernel: Tensor) -> CPResult:
    """The decomposition of a kernel of zeros."""
    return CPResult(kernel.new_ones(1), [kernel.new_zeros(n, 1) for n in kernel.shape], 0.0, 0.0)
