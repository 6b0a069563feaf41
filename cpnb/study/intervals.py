"""How sure an accuracy is: what another sample of as many images could have given."""

from __future__ import annotations

from scipy.stats import binomtest


def wilson(share: float, images: int) -> tuple[float, float]:
    """The 95% interval (Wilson 1927) of a share of images that were counted as right."""
    found = binomtest(round(share * images), images).proportion_ci(0.95, "wilson")
    return float(found.low), float(found.high)


def with_interval(share: float, images: int) -> str:
    """ "91.3% (89.8 to 92.6)"."""
    low, high = (f"{100 * end:.1f}" for end in wilson(share, images))
    return f"{share:.1%} ({low} to {high})"
