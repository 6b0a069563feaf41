"""The layers of Denton et al. (2014, arXiv 1404.0736), the paper's other rival.

Filters are sorted into balanced clusters, and what a cluster shares is computed once: a colour in
the first layer (monochromatic approximation), low-rank blocks of input and output clusters in the
layers above it (biclustering).
"""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor, nn

from cpnb.cp.als import cp_greedy
from cpnb.layers.clusters import balanced_lines, sorted_by_cluster
from cpnb.layers.factored import (
    FactoredConv2d,
    as_pair,
    check_count,
    place,
    spatial_options,
    truncated_svd,
)
from cpnb.layers.plain import weight_of

COLOURS = 3
BLOCKS = ("greedy", "svd")
MAPS = -3  # the axis of maps, with and without a batch axis before it


class Clustered(FactoredConv2d):
    """A layer whose last part makes the output maps cluster by cluster.

    Its buffers ``order`` and ``back`` say which of the T output maps each one is, and the reverse.
    """

    def output_order(self) -> Tensor:
        return self.order

    @property
    def bias(self) -> Tensor | None:
        return None if self.last.bias is None else self.last.bias[self.back]


class MonochromaticConv2d(Clustered):
    """A colour layer whose filters each see one of C′ grey images.

    W(t, c, i, j) ≈ u_{g(t)}(c) M(t, i, j), g being a balanced clustering of the T filters. For
    given colours u the best M is the projection, so colours and clusters are fitted to the whole
    error at once, where Denton et al. cluster the colours of rank-one fits. Two plain convolutions:
    1×1 (3 → C′) and d×d in C′ groups (C′ → T): 3 C′·HW + d² T·H'W' multiplies.

    ``rank`` is C′, the number of colours; it divides T.
    """

    def __init__(self, conv: nn.Conv2d, rank: int, factors: list[tuple[Tensor, Tensor, Tensor]]):
        super().__init__(conv, rank)
        ((labels, colours, grey),) = factors
        order = sorted_by_cluster(labels)
        self.register_buffer("order", order)
        self.register_buffer("back", torch.argsort(order))
        self.first = nn.Conv2d(COLOURS, rank, 1, bias=False, **place(conv))
        self.last = nn.Conv2d(
            rank, conv.out_channels, conv.kernel_size, groups=rank, bias=conv.bias is not None,
            **spatial_options(conv), **place(conv),
        )  # fmt: skip
        self.first.weight.copy_(colours[:, :, None, None])
        self.last.weight.copy_(grey[order][:, None])

    @classmethod
    def check(cls, conv, rank, **options):
        if conv.in_channels != COLOURS or conv.groups != 1:
            raise ValueError(
                "method 'monochromatic' is for a first layer that sees 3 colours, got a "
                f"convolution of {conv.in_channels} input maps in {conv.groups} group(s)"
            )
        rank = check_count(rank, conv.out_channels, "rank", "C′ colours")
        if conv.out_channels % rank:
            raise ValueError(
                f"rank={rank} colours must divide the {conv.out_channels} output maps: "
                "clusters are of one size"
            )
        return rank

    @staticmethod
    def fit(kernel: Tensor, rank: int, n_starts: int = 4, random_state: int = 0):
        """Clusters (T,), colours (C′, 3), and grey filters (T, d_y, d_x)."""
        labels, colours = balanced_lines(kernel.flatten(2), rank, n_starts, random_state)
        return labels, colours, torch.einsum("tc,tcij->tij", colours[labels], kernel)

    def kernel(self) -> Tensor:
        colours = weight_of(self.first)[:, :, 0, 0].repeat_interleave(
            len(self.order) // self.rank, 0
        )
        return torch.einsum("tc,tij->tcij", colours, weight_of(self.last)[:, 0])[self.back]

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, T, H', W')."""
        return self.last(self.first(x)).index_select(MAPS, self.back)


class BiclusteredConv2d(Clustered):
    """Input maps in G clusters, output maps in H, and each of the G H blocks of low rank.

    A block (T/H, S/G, d, d) becomes K greedy rank-one terms input ∘ space ∘ output
    (``blocks="greedy"``; G H K (S/G·HW + d²·H'W' + T/H·H'W') multiplies), or by two SVDs K₁ input
    and K₂ output directions around a d×d core (``blocks="svd"``; G H (S/G·K₁·HW + d² K₁ K₂·H'W' +
    K₂ T/H·H'W')). Three plain convolutions with groups: 1×1, d×d, 1×1.

    ``rank`` is K, or for "svd" K or (K₁, K₂). Clusters are counted within each group of the
    convolution; G divides S/groups, H divides T/groups.
    """

    def __init__(self, conv: nn.Conv2d, rank, factors: list[tuple]):
        super().__init__(conv, rank)
        shapes = factors[0]
        g, h, k1 = shapes[2].shape[:3]
        k2, groups = shapes[4].shape[2], conv.groups
        depthwise = shapes[3].shape[3] == 1 and k1 == k2  # one d×d kernel a term
        self.clusters = g, h
        offset = {n: size // groups for n, size in enumerate((conv.in_channels, conv.out_channels))}
        orders = [
            torch.cat([sorted_by_cluster(f[n]) + i * offset[n] for i, f in enumerate(factors)])
            for n in (0, 1)
        ]
        self.register_buffer("inputs", orders[0])
        self.register_buffer("order", orders[1])
        self.register_buffer("back", torch.argsort(orders[1]))
        blocks = groups * g * h
        self.first = nn.Conv2d(
            conv.in_channels, blocks * k1, 1, groups=groups * g, bias=False, **place(conv)
        )
        self.space = nn.Conv2d(
            blocks * k1, blocks * k2, conv.kernel_size,
            groups=blocks * k1 if depthwise else blocks, bias=False,
            **spatial_options(conv), **place(conv),
        )  # fmt: skip
        self.last = nn.Conv2d(
            blocks * k2, conv.out_channels, 1, groups=groups * h, bias=conv.bias is not None,
            **place(conv),
        )  # fmt: skip
        self._write(factors)

    def _write(self, factors: list[tuple]) -> None:
        first, space, last = (torch.stack([f[n] for f in factors]) for n in (2, 3, 4))
        self.first.weight.copy_(first.reshape(self.first.weight.shape))
        self.space.weight.copy_(space.reshape(self.space.weight.shape))
        # (groups, G, H, K₂, T/H) → a row an output map, its columns the (G, K₂) maps it reads.
        last = last.permute(0, 2, 4, 1, 3)
        self.last.weight.copy_(last.reshape(self.last.weight.shape))

    @classmethod
    def check(cls, conv, rank, clusters=(2, 2), blocks="greedy", **options):
        if blocks not in BLOCKS:
            raise ValueError(f"blocks must be one of {', '.join(BLOCKS)}, got {blocks!r}")
        counts = as_pair(clusters, "clusters must be (G, H), input and output clusters")
        sizes = conv.in_channels // conv.groups, conv.out_channels // conv.groups
        for count, size, what in zip(counts, sizes, ("input", "output"), strict=True):
            check_count(count, size, f"clusters of {what} maps", "of each group")
            if size % count:
                raise ValueError(
                    f"method 'biclustering' needs clusters of one size: {count} clusters do not "
                    f"divide the {size} {what} maps" + (" of a group" if conv.groups > 1 else "")
                )
        inside, outside = sizes[0] // counts[0], sizes[1] // counts[1]
        area = conv.kernel_size[0] * conv.kernel_size[1]
        if blocks == "greedy":
            most = min(inside * area, outside * area, inside * outside)
            return check_count(rank, most, "rank", "K terms a block")
        k1, k2 = _pair(rank)
        k1 = check_count(k1, inside, "rank K₁", "input directions of a block")
        k2 = check_count(k2, outside, "rank K₂", "output directions of a block")
        return k1, k2

    @classmethod
    def check_mixing(cls):
        raise ValueError(
            "weight must be diagonal for method 'biclustering', which sorts input maps into "
            "clusters and so cannot take a metric that mixes them"
        )

    @staticmethod
    def fit(
        kernel: Tensor, rank, clusters=(2, 2), blocks: str = "greedy", n_starts: int = 4,
        random_state: int = 0,
    ):  # fmt: skip
        """Labels (S,) and (T,), then the three factors of every block.

        They are first (G, H, K₁, S/G), space (G, H, K₂, K₁, d_y, d_x), or (G, H, K, 1, d_y, d_x) of
        greedy blocks, and last (G, H, K₂, T/H).
        """
        g, h = map(int, clusters)
        inputs = _cluster(kernel.transpose(0, 1), g, n_starts, random_state)
        outputs = _cluster(kernel, h, n_starts, random_state)
        solve = _greedy_block if blocks == "greedy" else _svd_block
        grid = [
            [solve(kernel[outputs == b][:, inputs == a], rank) for b in range(h)] for a in range(g)
        ]
        parts = [torch.stack([torch.stack([c[n] for c in row]) for row in grid]) for n in range(3)]
        return inputs, outputs, *parts

    def unscale_inputs(self, inverse: list[Tensor]) -> None:
        scale = torch.cat([matrix.diagonal() for matrix in inverse])[self.inputs]
        clusters = self.first.groups
        each = self.first.out_channels // clusters
        scale = scale.view(clusters, 1, -1).expand(-1, each, -1).flatten(0, 1)
        self.first.weight.mul_(scale[:, :, None, None])

    def kernel(self) -> Tensor:
        groups, (g, h) = self.options["groups"], self.clusters
        k1, k2 = (n // (groups * g * h) for n in (self.space.in_channels, self.space.out_channels))
        depthwise = k1 == k2 and self.space.groups == self.space.in_channels
        first = weight_of(self.first).reshape(groups, g, h, k1, -1)
        last = weight_of(self.last).reshape(groups, h, -1, g, k2)
        space = weight_of(self.space).reshape(groups, g, h, k2, -1, *self.kernel_size)
        rule = "nabks,nabkoij,nbtak->nbtasij" if depthwise else "nabks,nablkij,nbtal->nbtasij"
        sorted_kernel = torch.einsum(rule, first, space, last)  # (groups, H, T/H, G, S/G, d, d)
        kernel = sorted_kernel.flatten(3, 4).flatten(0, 2)  # rows and columns still by cluster
        each = kernel.shape[1]
        columns = torch.argsort(self.inputs.view(groups, each) % each, dim=1)
        parts = zip(kernel.chunk(groups), columns, strict=True)
        return torch.cat([part[:, column] for part, column in parts])[self.back]

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, H, W) → (N, T, H', W')."""
        maps = self.space(self.first(x.index_select(MAPS, self.inputs)))
        groups, (g, h) = self.options["groups"], self.clusters
        # From blocks in the order of their inputs (G, H) to that of their outputs (H, G).
        maps = maps.unflatten(MAPS, (groups, g, h, -1)).transpose(-5, -4).flatten(-6, -3)
        return self.last(maps).index_select(MAPS, self.back)


def _pair(rank) -> tuple:
    """(K₁, K₂) of a rank K or (K₁, K₂)."""
    if isinstance(rank, Integral):
        return rank, rank
    return as_pair(rank, "rank must be K or (K₁, K₂) for blocks='svd'")


def _cluster(filters: Tensor, count: int, n_starts: int, random_state: int) -> Tensor:
    """Balanced clusters of the first mode of ``filters``, (n, ...) → labels (n,)."""
    if count == len(filters):
        return torch.arange(count, device=filters.device)
    # n rows span at most n dimensions: their coordinates there say all that lines can tell.
    u, s, _ = torch.linalg.svd(filters.flatten(1), full_matrices=False)
    return balanced_lines((u * s)[:, :, None], count, n_starts, random_state)[0]


def _greedy_block(block: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """K greedy terms of (T, S, d_y, d_x): (K, S), (K, 1, d_y, d_x) and (K, T)."""
    t, s, dy, dx = block.shape
    if not block.any():
        return block.new_zeros(rank, s), block.new_zeros(rank, 1, dy, dx), block.new_zeros(rank, t)
    factors = cp_greedy(block.flatten(2), rank).factors
    out, inside, space = (nn.functional.pad(u.T, (0, 0, 0, rank - u.shape[1])) for u in factors)
    return inside, space.view(rank, 1, dy, dx), out


def _svd_block(block: Tensor, rank) -> tuple[Tensor, Tensor, Tensor]:
    """Two SVDs of (T, S, d_y, d_x): (K₁, S), (K₂, K₁, d_y, d_x) and (K₂, T).

    The first one splits off the output maps, the second one the input maps of what is left.
    """
    (_, s, dy, dx), (k1, k2) = block.shape, _pair(rank)
    out, rest = truncated_svd(block.flatten(1), k2)  # (T, K₂), (K₂, S d²)
    rest = rest.view(k2, s, dy * dx).transpose(0, 1).flatten(1)  # (S, K₂ d²)
    inside, core = truncated_svd(rest, k1)
    return inside.T, core.view(k1, k2, dy, dx).transpose(0, 1), out.T
