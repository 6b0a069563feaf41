"""The layers of Jaderberg, Vedaldi & Zisserman (BMVC 2014, arXiv 1405.3866), the first rival.

Both schemes rest on filters that are separable in space, fitted here to the kernel ("filter
reconstruction"); :func:`cpnb.reconstruct_on_data` then fits a layer to data.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cpnb.cp.als import cp_als
from cpnb.layers.factored import FactoredConv2d, axis_options, check_count, place, truncated_svd
from cpnb.layers.plain import weight_of


class VerticalHorizontal(FactoredConv2d):
    """Scheme 2: K vertical filters d×1×S, then T horizontal ones 1×d×K.

    W(t, s, i, j) ≈ Σ_k V(k, s, i) H(t, k, j): a matrix of rank K with rows (s, i) and columns
    (t, j), so the truncated SVD is the best fit there is. From maps of H×W to maps of H'×W' it
    takes K d (S·H'W + T·H'W') multiplies: K (S + T) d a position.

    ``rank`` is K, of each group; at most min(S d_y, T d_x), where it is exact.
    """

    CHAIN = ("first", "last")

    def __init__(self, conv: nn.Conv2d, rank: int, factors: list[tuple[Tensor, Tensor]]):
        super().__init__(conv, rank)
        groups, mid = conv.groups, conv.groups * rank
        (kh, kw), (along_y, along_x) = conv.kernel_size, axis_options(conv)
        common = {"groups": groups, **place(conv)}
        self.first = nn.Conv2d(conv.in_channels, mid, (kh, 1), bias=False, **along_y, **common)
        self.last = nn.Conv2d(
            mid, conv.out_channels, (1, kw), bias=conv.bias is not None, **along_x, **common
        )
        self.first.weight.copy_(torch.cat([v for v, _ in factors])[:, :, :, None])
        self.last.weight.copy_(torch.cat([h for _, h in factors])[:, :, None, :])

    @classmethod
    def check(cls, conv, rank):
        (kh, kw), groups = conv.kernel_size, conv.groups
        most = min(conv.in_channels * kh, conv.out_channels * kw) // groups
        return check_count(rank, most, "rank", "K vertical filters, where min(S d, T d) is exact")

    @staticmethod
    def fit(kernel: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """V (K, S, d_y) and H (T, K, d_x) by the truncated SVD."""
        t, s, dy, dx = kernel.shape
        rows, columns = truncated_svd(kernel.permute(1, 2, 0, 3).reshape(s * dy, t * dx), rank)
        return rows.T.reshape(rank, s, dy), columns.view(rank, t, dx).transpose(0, 1)

    def kernel(self) -> Tensor:
        groups = self.options["groups"]
        parts = zip(*(weight_of(p).chunk(groups) for p in (self.first, self.last)), strict=True)
        return torch.cat([torch.einsum("ksi,tkj->tsij", v[..., 0], h[:, :, 0]) for v, h in parts])


class SeparableBasis(FactoredConv2d):
    """Scheme 1: M separable basis filters for each input map, then a linear mix of them.

    W(t, s, i, j) ≈ Σ_m A(t, s, m) v(s, m, i) h(s, m, j): for each input map a CP decomposition of
    rank M of its filters (T, d, d), fitted by ALS. Three plain convolutions: d×1 (S → SM) and 1×d
    depthwise, 1×1 (SM → T); at unit stride about (2d + T) M S multiplies a position.

    ``rank`` is M; at most d_y d_x, where it is exact.
    """

    CHAIN = ("first", "horizontal", "last")

    def __init__(self, conv: nn.Conv2d, rank: int, factors: list[tuple[Tensor, Tensor, Tensor]]):
        super().__init__(conv, rank)
        maps, (kh, kw), (along_y, along_x) = conv.in_channels, conv.kernel_size, axis_options(conv)
        mid = maps * rank
        plain = {"bias": False, **place(conv)}
        self.first = nn.Conv2d(maps, mid, (kh, 1), groups=maps, **along_y, **plain)
        self.horizontal = nn.Conv2d(mid, mid, (1, kw), groups=mid, **along_x, **plain)
        self.last = nn.Conv2d(
            mid, conv.out_channels, 1, groups=conv.groups, bias=conv.bias is not None, **place(conv)
        )
        mix, v, h = (torch.cat([f[n] for f in factors]) for n in range(3))
        self.first.weight.copy_(v.reshape(mid, 1, kh, 1))
        self.horizontal.weight.copy_(h.reshape(mid, 1, 1, kw))
        self.last.weight.copy_(mix[:, :, None, None])

    @classmethod
    def check(cls, conv, rank, **options):
        kh, kw = conv.kernel_size
        return check_count(rank, kh * kw, "rank", "M basis filters a map, where d² is exact")

    @classmethod
    def check_mixing(cls):
        raise ValueError(
            "weight must be diagonal for scheme 1 of 'jaderberg', whose basis filters see one "
            "input map each; scheme 2 takes any covariance"
        )

    @staticmethod
    def fit(
        kernel: Tensor, rank: int, n_iter_max: int = 100, tol: float = 1e-7, random_state: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A (T, S·M), v (S, M, d_y) and h (S, M, d_x)."""
        options = {"n_iter_max": n_iter_max, "tol": tol, "random_state": random_state}
        fits = [_rank_m(kernel[:, s], rank, options) for s in range(kernel.shape[1])]
        mix, v, h = (torch.stack([fit[n].T for fit in fits]) for n in range(3))  # (S, M, ·)
        return mix.flatten(0, 1).T, v, h

    def unscale_inputs(self, inverse: list[Tensor]) -> None:
        scale = torch.cat([matrix.diagonal() for matrix in inverse]).repeat_interleave(self.rank)
        self.first.weight.mul_(scale[:, None, None, None])

    def kernel(self) -> Tensor:
        groups, maps = self.options["groups"], self.options["in_channels"]
        v, h = (weight_of(p).reshape(maps, self.rank, -1) for p in (self.first, self.horizontal))
        mix = weight_of(self.last).reshape(self.options["out_channels"], maps // groups, self.rank)
        parts = zip(mix.chunk(groups), v.chunk(groups), h.chunk(groups), strict=True)
        return torch.cat([torch.einsum("tsm,smi,smj->tsij", *part) for part in parts])


def _rank_m(filters: Tensor, rank: int, options: dict) -> list[Tensor]:
    """Factors of one input map's filters (T, d_y, d_x); zeros for a map that no filter reads."""
    if not filters.any():
        return [filters.new_zeros(size, rank) for size in filters.shape]
    return cp_als(filters, rank, **options).factors
