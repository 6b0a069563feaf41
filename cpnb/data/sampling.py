"""Sizes of data sets, checked, and rows drawn at random."""

import operator

import torch
from torch import Tensor


def check_size(size, most: int | None = None) -> int:
    """``size`` as an int, if it is an integer (of NumPy too) from 1 to `most`.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    try:
        number = 0 if isinstance(size, bool) else operator.index(size)
    except TypeError:
        number = 0
    if number < 1 or (most is not None and number > most):
        accepted = (
            "an integer of at least 1" if most is None else f"an integer from 1 to {most} (all)"
        )
        raise ValueError(f"size: got {size!r}, accepted is {accepted}")
    return number


def chosen_rows(length: int, size, seed: int = 0) -> Tensor:
    """`size` of the rows 0 … length − 1 at random without repetition, the same for the same seed.

    Raises
    ------
    ValueError
        If `size` is no integer from 1 to `length`.
    """
    size = check_size(size, length)
    return torch.randperm(length, generator=torch.Generator().manual_seed(int(seed)))[:size]
