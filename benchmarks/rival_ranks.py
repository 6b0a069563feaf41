"""Ranks at like multiply counts, for `rivals.py`; imported, not run.

Counts are those of CharNet's conv2 and conv3 for one patch of 24×24.
"""

import functools
import math

import torch

HEIGHT = {"conv2": (16, 8), "conv3": (8, 1)}  # of a layer's input and output maps
CLUSTERS = {"conv2": (2, 1), "conv3": (2, 1)}  # G, H of biclustering


def multiplies(conv, name: str, method: str, rank) -> int:
    """Of one layer, for one patch; a pair of ranks for Tucker."""
    s, t, d = conv.in_channels, conv.out_channels, conv.kernel_size[0]
    high, low = HEIGHT[name]
    whole, half, out = high * high, high * low, low * low
    if method == "tucker":
        return rank[0] * s * whole + d * d * rank[0] * rank[1] * out + rank[1] * t * out
    g, h = CLUSTERS[name]
    return (
        rank
        * {
            "nls": s * whole + d * half + d * out + t * out,
            "greedy": s * whole + d * half + d * out + t * out,
            "jaderberg-2": d * (s * half + t * out),
            "jaderberg-1": s * (d * half + d * out + t * out),
            "biclustering": h * s * whole + g * h * d * d * out + g * t * out,
        }[method]
    )


def dense_multiplies(conv, name: str) -> int:
    return conv.weight.numel() * HEIGHT[name][1] ** 2


def rank_at(net, name: str, method: str, factor: float):
    """The rank at which a layer comes nearest to ``factor`` times fewer multiplies."""
    conv = net.get_submodule(name)
    goal = dense_multiplies(conv, name) / factor
    if method == "tucker":
        return tucker_pair(conv, name, goal)
    exact = goal / multiplies(conv, name, method, 1)
    below = max(1, int(exact))
    return min((below, below + 1), key=lambda rank: abs(math.log(rank / exact)))


@functools.cache
def tucker_pair(conv, name: str, goal: float) -> tuple[int, int]:
    """(R_S, R_T) within the goal that keep the most of the kernel, by its truncated HOSVD."""
    kernel = conv.weight.detach().double()
    bases = [torch.linalg.svd(k, full_matrices=False)[0]
             for k in (kernel.flatten(1), kernel.transpose(0, 1).flatten(1))]  # fmt: skip
    core = torch.einsum("tsij,tq,sp->qpij", kernel, *bases).square().sum((2, 3))
    kept = core.cumsum(0).cumsum(1)  # (R_T, R_S)
    best = (0.0, (1, 1))
    for rs in range(1, kept.shape[1] + 1):
        fixed, one = (multiplies(conv, name, "tucker", (rs, rt)) for rt in (0, 1))
        rt = min(int((goal - fixed) / (one - fixed)), kept.shape[0])
        if rt >= 1:
            best = max(best, (float(kept[rt - 1, rs - 1]), (rs, rt)))
    return best[1]
