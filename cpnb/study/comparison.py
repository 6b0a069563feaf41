"""CP and its rivals on CharNet: recorded accuracy and recorded latency of each net, put together.

``benchmarks/rivals.py`` writes the two kinds of rows; a net is a method and its ranks.
"""

from __future__ import annotations

from math import inf
from statistics import mean, median, stdev

from cpnb.study.selection import newest_code

CP = ("nls", "greedy")
NAMES = {
    "nls": "CP, NLS (bounded)",
    "greedy": "CP, greedy",
    "jaderberg-2": "Jaderberg, scheme 2",
    "jaderberg-1": "Jaderberg, scheme 1",
    "biclustering": "Denton, biclustering",
    "tucker": "Tucker-2",
}
ACCURACY, LATENCY = "charnet-rivals", "charnet-rivals-latency"
SAME = ("dataset", "epochs", "train_size", "test_size")  # rows that differ here do not mix


def compared(rows: list[dict]) -> list[dict]:
    """One point a net that has both kinds of rows, method by method, by falling multiplies.

    Parameters
    ----------
    rows : list of dict
        Records. Of the accuracies, those in the conditions of the newest of them count, and of
        equal runs the newest; so with latencies.

    Returns
    -------
    list of dict
        Keys: method, ranks, seeds (how many), baseline and accuracy (shares), drop_before and
        drop_after (points, means over seeds), drop_validation (points, of the seeds that were told
        on the validation split, None for none), seeds_validation (how many these are), spread and
        spread_validation (standard deviations over seeds, None for one), multiplies, bound, speedup
        (over dense in PyTorch, median of the repeats), speedups (each repeat's, in order), fused,
        speedup_optimised, speedups_optimised, least and worst (drop_after of the best and of the
        worst seed), runs.
    """
    accuracies = [r for r in rows if r.get("claim") == ACCURACY]
    accuracies = [r for r in accuracies if all(r[k] == accuracies[-1][k] for k in SAME)]
    nets: dict[tuple, dict] = {}
    for row in accuracies:
        nets.setdefault(_net(row), {})[row["seed"]] = row
    latencies = newest_code([r for r in rows if r.get("claim") == LATENCY])
    timed: dict[tuple, list[dict]] = {}
    for row in latencies:
        timed.setdefault(_architecture(_net(row)), []).append(row)
    points = [
        _point(net[0], list(runs.values()), timed[_architecture(net)])
        for net, runs in nets.items()
        if _architecture(net) in timed
    ]
    order = list(NAMES)
    return sorted(points, key=lambda p: (order.index(p["method"]), -p["multiplies"]))


def _net(row: dict) -> tuple:
    return row["method"], str(row["ranks"])


def _architecture(net: tuple) -> tuple:
    """CP is one, whoever solved it."""
    return "nls" if net[0] in CP else net[0], net[1]


def _point(method: str, runs: list[dict], repeats: list[dict]) -> dict:
    timed = repeats[-1]
    plain, fast = ([r[key] for r in repeats] for key in ("speedup", "speedup_optimised"))
    drops = [100 * (r["accuracy_baseline"] - r["accuracy_finetuned"]) for r in runs]
    unseen = [
        100 * (r["accuracy_baseline_validation"] - r["accuracy_finetuned_validation"])
        for r in runs
        if "accuracy_finetuned_validation" in r
    ]
    return {
        "method": method,
        "ranks": timed["ranks"],
        "seeds": len(runs),
        "baseline": mean(r["accuracy_baseline"] for r in runs),
        "accuracy": mean(r["accuracy_finetuned"] for r in runs),
        "drop_before": mean(
            100 * (r["accuracy_baseline"] - r["accuracy_decomposed"]) for r in runs
        ),
        "drop_after": mean(drops),
        "drop_validation": mean(unseen) if unseen else None,
        "seeds_validation": len(unseen),
        "spread": stdev(drops) if len(drops) > 1 else None,
        "spread_validation": stdev(unseen) if len(unseen) > 1 else None,
        "multiplies": timed["multiplies"],
        "bound": timed["bound"],
        "speedup": median(plain),
        "speedups": plain,
        "fused": timed["fused"],
        "speedup_optimised": median(fast),
        "speedups_optimised": fast,
        "least": min(drops),
        "worst": max(drops),
        "runs": [*runs, *repeats],
    }


def fastest_within(points: list[dict], drop: float, key: str = "speedup") -> dict | None:
    """The fastest measured point that loses at most ``drop`` points; none is interpolated.

    Points that have a drop on the validation split are chosen by it, and told on the test split.
    """
    return max((p for p in points if judged_by(p) <= drop), key=lambda p: p[key], default=None)


def judged_by(point: dict) -> float:
    """Points lost where nets are chosen; infinite for one that was never told there."""
    drop = point.get("drop_validation", point["drop_after"])
    return inf if drop is None else drop


def winners(points: list[dict], drop: float = 1.0) -> list[dict]:
    """For each method its fastest point within ``drop`` points of the baseline, or None of it."""
    methods = dict.fromkeys(p["method"] for p in points)
    return [
        {"method": m, "point": fastest_within([p for p in points if p["method"] == m], drop)}
        for m in methods
    ]


def like_multiplies(points: list[dict], ranks: list[int]) -> list[dict]:
    """The points that take as many multiplies as CP by NLS at these ranks, within a twentieth.

    Raises
    ------
    ValueError
        If there are points, but none of CP by NLS at these ranks.
    """
    cp = {str(p["ranks"]): p["multiplies"] for p in points if p["method"] == "nls"}
    if points and str(ranks) not in cp:
        raise ValueError(f"ranks={ranks}: CP by NLS is recorded at {', '.join(cp) or 'no ranks'}")
    return [p for p in points if abs(p["multiplies"] / cp[str(ranks)] - 1) < 0.05]


def ratio_of(one: dict, other: dict, key: str = "speedups") -> tuple[float, float, float]:
    """How much faster one net is than another: median, least and most over the repeats.

    In a repeat all nets are timed in turns, so its two figures are compared with each other.
    """
    # Not strict: an interrupted benchmark leaves one repeat in part.
    ratios = sorted(a / b for a, b in zip(one[key], other[key], strict=False))
    return median(ratios), ratios[0], ratios[-1]


def told_ratio(ratio: tuple[float, float, float]) -> str:
    """ "1.16 (1.02 to 1.31)"."""
    middle, least, most = ratio
    return f"{middle:.2f} ({least:.2f} to {most:.2f})"


def verdict(points: list[dict], drop: float = 1.0) -> str:
    """Who is ahead within ``drop`` points, CP by NLS or the best of its rivals, in words."""
    sides = (
        [p for p in points if p["method"] == "nls"],
        [p for p in points if p["method"] not in CP],
    )
    within, told = "one point" if drop == 1 else f"{drop:g} points", []
    for key, how in (("speedup", "run by PyTorch"), ("speedup_optimised", "optimised")):
        cp, other = (fastest_within(side, drop, key) for side in sides)
        if cp is None or other is None:
            return f"Not every side has a net within {within} of the baseline."
        ratio = ratio_of(cp, other, key.replace("speedup", "speedups"))
        ahead = (
            "is ahead" if ratio[1] > 1 else "is behind" if ratio[2] < 1 else "is level, in noise"
        )
        told.append(
            f"{how}, bounded NLS is at {cp[key]:.1f}× and the best rival "
            f"({NAMES[other['method']]}) at {other[key]:.1f}×: CP {ahead}, "
            f"{told_ratio(ratio)} times as fast (on the test split they lose "
            f"{cp['drop_after']:.1f} and {other['drop_after']:.1f} points)"
        )
    return (
        f"Within {within} on the validation split, speed-ups over dense in PyTorch: "
        f"{'; '.join(told)}."
    )


def in_order(points: list[dict], key: str, form: str, reverse: bool = False) -> str:
    """The methods in the order of a column, with its values: "CP, greedy: 5.1×; Tucker-2: 4.0×"."""
    ordered = sorted(points, key=lambda p: p[key], reverse=reverse)
    return "; ".join(f"{NAMES[p['method']]}: {form.format(p[key])}" for p in ordered)
