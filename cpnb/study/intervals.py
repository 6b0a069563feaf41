"""How sure an accuracy is: what another sample of as many images could have given."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import NormalDist

Z = NormalDist().inv_cdf(0.975)  # of 95% on both sides
GOOD = 956  # images of Chars74K's test split that are of its GoodImg part (data/README)


def wilson(share: float, images: int) -> tuple[float, float]:
    """The 95% interval (Wilson 1927) of a share of images that were counted as right.

    Written out, as `scipy.stats` has it, which takes each notebook two seconds to load.
    """
    share = round(share * images) / images
    spread = Z * (share * (1 - share) / images + (Z / images / 2) ** 2) ** 0.5
    middle, whole = share + Z**2 / images / 2, 1 + Z**2 / images
    return max(0.0, (middle - spread) / whole), min(1.0, (middle + spread) / whole)


def with_interval(share: float, images: int) -> str:
    """ "91.3% (89.8 to 92.6)"."""
    low, high = (f"{100 * end:.1f}" for end in wilson(share, images))
    return f"{share:.1%} ({low} to {high})"


def widest(counted: Iterable[tuple[float, int]]) -> str:
    """How sure accuracies are that stand together: "95% intervals up to ±2.4 points".

    Parameters
    ----------
    counted : iterable of (share, images)
    """
    return f"95% intervals up to {half(counted)}"


def half(counted: Iterable[tuple[float, int]]) -> str:
    """Half of the widest of these 95% intervals: "±2.4 points"."""
    halves = [(high - low) / 2 for low, high in (wilson(*one) for one in counted)]
    return f"±{100 * max(halves, default=0):.1f} points"


def sureness(runs: list[dict], *keys: str) -> str:
    """The same of the accuracies in `keys` of recorded runs, counted on their `test_size`.

    Raises
    ------
    KeyError
        No run has one of the keys: the caption would be surer than its table.
    """
    for key in keys:
        if runs and all(run.get(key) is None for run in runs):
            raise KeyError(f"none of {len(runs)} runs has {key!r}")
    known = ((run.get(key), run["test_size"]) for run in runs for key in keys)
    return widest((share, images) for share, images in known if share is not None)
