"""README's figure: accuracy lost against measured speed-up, of a small net and a modern one."""

from __future__ import annotations

from statistics import mean, median
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from cpnb.study.figures.labels import label_points
from cpnb.study.figures.style import BLACK, BLUE, ORANGE, RED
from cpnb.study.selection import chosen, lost, main_runs, newest, newest_code, optimised_charnets


class Point(NamedTuple):
    """One net: middle, least and most of its speed-ups and of the points that it lost."""

    speeds: tuple[float, float, float]
    drops: tuple[float, float, float]
    ratio: float  # how many times fewer multiplies

    def across(self) -> list[tuple[float, float]]:
        """Places along the bar of its speed-ups."""
        _, least, most = self.speeds
        return [(speed, self.drops[0]) for speed in np.linspace(least, most, 40)]


def headline(rows: list[dict] | None = None):
    """CharNet after fine-tuning and ResNet-20 without training, each in its fastest runtime.

    Bars are the range of the runs, of the seeds, or of the samples of images; a label is the ratio
    of multiplies.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    rows = chosen(rows)
    fig, ax = plt.subplots(figsize=(8, 4.4))
    sides = (
        ("CharNet, bounded NLS (ours), fine-tuned with labels (Chars74K)",
         BLUE, "o", _charnets(rows)),
        ("ResNet-20, no labels, no training (CIFAR-10, JPEG copy)", ORANGE, "s", _resnets(rows)),
    )  # fmt: skip
    drawn, barred = [(8.5, 1.0)], []
    for name, color, marker, points in sides:
        if not points:
            continue
        (speed, across), (drop, along) = (_bars(p[i] for p in points) for i in (0, 1))
        ax.errorbar(
            speed, drop, along, across, fmt=marker, color=color, ms=8, capsize=3, label=name
        )
        drawn += zip(speed, drop, strict=True)
        barred += [along for point in points for along in point.across()]
    told = "the paper, CharNet: 8.5×, 91% → 90%; over which dense net is unknown"
    ax.plot(*drawn[0], "*", ms=14, color=RED, label=told)
    ax.axhline(0, color=BLACK, lw=1)
    ax.set(
        xlabel="measured speed-up on a CPU, over the fastest dense net of all runtimes (×)",
        ylabel="accuracy lost (points)", xlim=(0, 1.05 * max(speed for speed, _ in drawn + barred)),
    )  # fmt: skip
    highest = max([drawn[0][1], *(point.drops[2] for *_, points in sides for point in points)])
    ax.set_ylim(top=1.75 * highest)  # room for the legend
    ax.legend(loc="upper right", fontsize=9, title=_legend_of(sides[0][3]), title_fontsize=9)
    ratios = [f"{point.ratio:.1f}" for *_, points in sides for point in points]
    label_points(ax, drawn, ["", *ratios], avoid=barred, fontsize=10)
    return fig


def _legend_of(charnets: list[Point]) -> str:
    told = "numbers: times fewer multiplies; bars: range of the runs, where there are several"
    if charnets:  # by the rule of claims.fused_within_a_point
        told += f"\n{max(charnets).ratio:.1f}: its ranks were chosen on the test split"
    return told + "\nResNet-20: losses are those of other fits than the timed ones"


def _point(speedups: list[float], drops: list[float], ratio: float, middle=mean) -> Point:
    speeds = median(speedups), min(speedups), max(speedups)
    return Point(speeds, (middle(drops), min(drops), max(drops)), ratio)


def _bars(values) -> tuple[np.ndarray, np.ndarray]:
    """The middles, and how far the least and the most lie from them, as error bars are drawn."""
    middle, least, most = np.array(list(values)).T
    return middle, np.array([middle - least, most - middle])


def _charnets(rows: list[dict]) -> list[Point]:
    """The nets that were timed and fine-tuned; points lost are the mean of the seeds."""
    nets = []
    for ranks, timed in optimised_charnets(rows).items():
        if tuned := main_runs(rows, dict(ranks)):
            timed = newest_code(timed)
            speedups = [r["speedup"] for r in timed]
            nets.append(_point(speedups, [lost(r) for r in tuned], timed[-1]["bound"]))
    return nets


def _resnets(rows: list[dict]) -> list[Point]:
    """One net a factor was timed; points lost are the median of the samples of images.

    These nets are not the one that was timed, but other fits, at slightly other ranks.
    """
    timed = [
        run
        for run in chosen(rows, claim="alternatives", name="CP by the plan", net="resnet20")
        if "torch.compile" in run["latencies"]  # as of CharNet (selection.optimised_charnets)
    ]
    fitted = chosen(rows, claim="compress", allocation="plan", net="resnet20")
    points = []
    for run in newest(newest_code(timed), "factor"):
        runs = newest([r for r in fitted if r["factor"] == run["factor"]], "seed")
        if runs:
            drops = [100 * r["drop"] for r in runs]
            points.append(_point([run["speedup"]], drops, run["factor"], median))
    return points
