"""What a training run started from, in a few numbers that a checkpoint keeps."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cpnb.training.batches import in_memory


def first_samples(data) -> list[Tensor]:
    """Images and labels that the data begin with; none where they are not tensors in memory."""
    tensors = in_memory(data.dataset if isinstance(data, DataLoader) else data)
    return [] if tensors is None else [tensor[:32] for tensor in tensors]


def signature(tensors: list[Tensor]) -> list[float]:
    """A projection of each tensor, relative to its norm, onto one fixed direction.

    It tells starting weights and data apart, but for the rounding errors of recomputed ones.
    """
    values = []
    for tensor in tensors:
        flat = tensor.detach().cpu().double().flatten()
        direction = torch.cos(torch.arange(len(flat), dtype=torch.float64))
        values.append((flat @ direction / flat.norm().clamp_min(1e-12)).item())
    return values


def same_signature(a: list[float], b: list[float]) -> bool:
    """Whether they are alike but for rounding."""
    return len(a) == len(b) and all(abs(x - y) < 1e-3 for x, y in zip(a, b, strict=True))
