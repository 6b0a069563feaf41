"""Tucker-2 of convolutions, by higher-order orthogonal iteration (HOOI).

With ranks chosen by variational Bayes it is Kim et al.'s whole-network compression (ICLR 2016).
"""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor, nn

from cpnb.layers.factored import FactoredConv2d, as_pair, check_count, place, spatial_options
from cpnb.layers.plain import weight_of
from cpnb.layers.vbmf import vbmf_rank

RANKS = "(R_S, R_T), a share of energy above 0 and below 1, or 'vbmf'"


class TuckerConv2d(FactoredConv2d):
    """Tucker-2: 1×1 (S → R_S), a d×d core (R_S → R_T), 1×1 (R_T → T).

    W(t, s, i, j) ≈ Σ_pq U(t, q) C(q, p, i, j) V(s, p), by HOOI. R_S·S·HW +
    (d² R_S R_T + R_T T)·H'W' multiplies, for each group.

    ``rank`` is (R_S, R_T), of each group; or a share e of energy: the least ranks at which each
    mode alone keeps e of ‖W‖²; or "vbmf": the ranks that variational Bayes tells from noise.
    """

    CHAIN = ("first", "core", "last")

    def __init__(self, conv: nn.Conv2d, rank, factors: list[tuple[Tensor, Tensor, Tensor]]):
        super().__init__(conv, rank)
        # Ranks found from data may differ from group to group; the smaller one gets zeros.
        rs, rt = (max(core.shape[n] for _, core, _ in factors) for n in (1, 0))
        groups = conv.groups
        common = {"groups": groups, **place(conv)}
        self.ranks = rs, rt
        self.first = nn.Conv2d(conv.in_channels, groups * rs, 1, bias=False, **common)
        self.core = nn.Conv2d(
            groups * rs, groups * rt, conv.kernel_size, bias=False,
            **spatial_options(conv), **common,
        )  # fmt: skip
        self.last = nn.Conv2d(
            groups * rt, conv.out_channels, 1, bias=conv.bias is not None, **common
        )
        for part in (self.first, self.core, self.last):
            part.weight.zero_()
        parts = zip(*(p.weight.chunk(groups) for p in (self.first, self.core, self.last)),
                    factors, strict=True)  # fmt: skip
        for first, core, last, (v, c, u) in parts:
            first[: c.shape[1]] = v.T[:, :, None, None]
            core[: c.shape[0], : c.shape[1]] = c
            last[:, : c.shape[0]] = u[:, :, None, None]

    @classmethod
    def check(cls, conv, rank, **options):
        if isinstance(rank, str) and rank == "vbmf":
            return rank
        if isinstance(rank, Real) and 0 < rank < 1:
            return float(rank)
        rs, rt = as_pair(rank, f"rank of method 'tucker' must be {RANKS}")
        rs = check_count(rs, conv.in_channels // conv.groups, "rank R_S", "input directions")
        rt = check_count(rt, conv.out_channels // conv.groups, "rank R_T", "output directions")
        return rs, rt

    @staticmethod
    def fit(kernel: Tensor, rank, n_iter_max: int = 100, tol: float = 1e-6):
        """V (S, R_S), core (R_T, R_S, d_y, d_x) and U (T, R_T)."""
        core, u, v = hooi(kernel, *tucker_ranks(kernel, rank), n_iter_max, tol)
        if not core.any():
            return v * 0, core, u * 0
        share = core.norm() ** (1 / 3)  # the factors have unit columns, the core all the norm
        return v * share, core / share**2, u * share

    def kernel(self) -> Tensor:
        groups = self.options["groups"]
        parts = (weight_of(p).chunk(groups) for p in (self.first, self.core, self.last))
        return torch.cat(
            [
                torch.einsum("ps,qpij,tq->tsij", v[..., 0, 0], c, u[..., 0, 0])
                for v, c, u in zip(*parts, strict=True)
            ]
        )

    def extra_repr(self) -> str:
        return f"ranks={self.ranks}, {super().extra_repr()}"


def hooi(
    kernel: Tensor, rs: int, rt: int, n_iter_max: int, tol: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The core (R_T, R_S, d_y, d_x) and orthonormal U (T, R_T), V (S, R_S) of a kernel.

    De Lathauwer et al. (2000): each factor in turn spans what is largest of the kernel projected on
    the other one, until the relative error changes by less than ``tol``. As TensorLy's
    ``partial_tucker``, but for the backend, which TensorLy has one of for the whole session.
    """
    u, v = _leading(kernel, rt), _leading(kernel.transpose(0, 1), rs)
    whole, errors = kernel.norm(), []
    for _ in range(n_iter_max):
        u = _leading(torch.einsum("tsij,sp->tpij", kernel, v), rt)
        v = _leading(torch.einsum("tsij,tq->sqij", kernel, u), rs)
        # U and V are orthonormal: what the core lacks of the norm is the error.
        square = torch.einsum("tsij,tq,sp->qpij", kernel, u, v).square().sum()
        errors.append(math.sqrt((whole**2 - square).abs()) / max(float(whole), 1e-300))
        if len(errors) > 2 and abs(errors[-2] - errors[-1]) < tol:
            break
    return torch.einsum("tsij,tq,sp->qpij", kernel, u, v), u, v


def _leading(tensor: Tensor, rank: int) -> Tensor:
    """The leading left singular vectors (I, R) of the first unfolding; any others beyond them."""
    matrix = tensor.flatten(1)
    return torch.linalg.svd(matrix, full_matrices=rank > min(matrix.shape))[0][:, :rank]


def tucker_ranks(kernel: Tensor, rank) -> tuple[int, int]:
    """(R_S, R_T) of a kernel (T, S, d_y, d_x): as given, by energy, or by variational Bayes."""
    if isinstance(rank, (tuple, list)):
        return tuple(rank)
    unfoldings = kernel.transpose(0, 1).flatten(1), kernel.flatten(1)
    choose = vbmf_rank if rank == "vbmf" else lambda matrix: energy_rank(matrix, rank)
    return tuple(max(1, choose(matrix)) for matrix in unfoldings)


def energy_rank(matrix: Tensor, share: float) -> int:
    """The least K for which the K largest singular values hold ``share`` of ‖matrix‖²."""
    kept = torch.linalg.svdvals(matrix).square().cumsum(0)
    return min(int((kept < share * kept[-1]).sum()) + 1, len(kept))
