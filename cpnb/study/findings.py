"""What the table of claims is made of: a claim, a finding, and the plain verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

YES, NO = "replicated", "not replicated"
# A verdict names the method that ran: "replicated" is said of the paper's alone.
OTHER = "replicated by another method"
ORDER = "order replicated, ratio not"
NOT_YET = "not tested yet"
# Answers to questions of ours: of figures that nobody could confirm nothing is replicated.
HOLDS, FAILS = "yes", "no"


class Finding(NamedTuple):
    """What was measured, the verdict, the runs that both rest on, and the same in a few words."""

    here: str
    verdict: str
    runs: list[dict]
    brief: str = ""  # of ``here``, for README


@dataclass(frozen=True)
class Claim:
    """One claim; ``missing`` is its verdict while nothing is recorded."""

    text: str
    paper: str
    mark: str
    find: Callable[[list[dict]], Finding | None]
    command: str = ""
    missing: str = NOT_YET
    short: str = ""  # its name in README, which shows these alone


def counted(number: int, noun: str) -> str:
    """ "one seed", "3 seeds"."""
    return f"one {noun}" if number == 1 else f"{number} {noun}s"


def by_seed(runs: list[dict]) -> str:
    """ ", 3 seeds 90.3 to 90.5": accuracies after fine-tuning, in percent."""
    if len(runs) == 1:
        return ", one seed"
    each = [100 * r["accuracy_finetuned"] for r in runs]
    return f", {len(runs)} seeds {min(each):.1f} to {max(each):.1f}"


def speedups(runs: list[dict]) -> str:
    """ "9.0× (2 runs, 8.6 to 9.3×)": the median of their speed-ups, and how far they lie apart."""
    each = [r["speedup"] for r in runs]
    many = f"{len(runs)} runs, {min(each):.1f} to {max(each):.1f}×" if len(runs) > 1 else "one run"
    return f"{median(each):.1f}× ({many})"
