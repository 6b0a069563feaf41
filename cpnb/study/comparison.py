"""CP and its rivals on CharNet: recorded accuracy and recorded latency of each net, put together.

``benchmarks/rivals.py`` writes the two kinds of rows; a net is a method and its ranks.
"""

from __future__ import annotations

from statistics import mean, stdev

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
        drop_after (points, means over seeds), spread (standard deviation of drop_after over seeds,
        None for one), multiplies, bound, speedup (measured), fused, speedup_optimised, runs (rows).
    """
    accuracies = [r for r in rows if r.get("claim") == ACCURACY]
    accuracies = [r for r in accuracies if all(r[k] == accuracies[-1][k] for k in SAME)]
    nets: dict[tuple, dict] = {}
    for row in accuracies:
        nets.setdefault(_net(row), {})[row["seed"]] = row
    timed = {_net(row): row for row in rows if row.get("claim") == LATENCY}
    points = [_point(list(nets[net].values()), timed[net]) for net in nets if net in timed]
    order = list(NAMES)
    return sorted(points, key=lambda p: (order.index(p["method"]), -p["multiplies"]))


def _net(row: dict) -> tuple:
    return row["method"], str(row["ranks"])


def _point(runs: list[dict], timed: dict) -> dict:
    drops = [100 * (r["accuracy_baseline"] - r["accuracy_finetuned"]) for r in runs]
    return {
        "method": timed["method"],
        "ranks": timed["ranks"],
        "seeds": len(runs),
        "baseline": mean(r["accuracy_baseline"] for r in runs),
        "accuracy": mean(r["accuracy_finetuned"] for r in runs),
        "drop_before": mean(
            100 * (r["accuracy_baseline"] - r["accuracy_decomposed"]) for r in runs
        ),
        "drop_after": mean(drops),
        "spread": stdev(drops) if len(drops) > 1 else None,
        "multiplies": timed["multiplies"],
        "bound": timed["bound"],
        "speedup": timed["speedup"],
        "fused": timed["fused"],
        "speedup_optimised": timed["speedup_optimised"],
        "runs": [*runs, timed],
    }


def fastest_within(points: list[dict], drop: float, key: str = "speedup") -> dict | None:
    """The fastest measured point that loses at most ``drop`` points; none is interpolated."""
    return max((p for p in points if p["drop_after"] <= drop), key=lambda p: p[key], default=None)


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


def verdict(points: list[dict], drop: float = 1.0) -> str:
    """Who is ahead within ``drop`` points, CP by NLS or the best of its rivals, in words."""
    sides = (
        [p for p in points if p["method"] == "nls"],
        [p for p in points if p["method"] not in CP],
    )
    cp, other = (fastest_within(side, drop) for side in sides)
    within = "one point" if drop == 1 else f"{drop:g} points"
    if cp is None or other is None:
        return f"Not every side has a net within {within} of the baseline."
    ahead = "ahead of" if cp["speedup"] > other["speedup"] else "not ahead of"
    fast, best = (fastest_within(side, drop, "speedup_optimised") for side in sides)
    return (
        f"Within {within}, CP by NLS is measured at {cp['speedup']:.1f}× and the best rival "
        f"({NAMES[other['method']]}) at {other['speedup']:.1f}×: CP is {ahead} it. Optimised for "
        f"inference, CP is at {fast['speedup_optimised']:.1f}× and the best rival "
        f"({NAMES[best['method']]}) at {best['speedup_optimised']:.1f}×."
    )


def in_order(points: list[dict], key: str, form: str, reverse: bool = False) -> str:
    """The methods in the order of a column, with its values: "CP, greedy: 5.1×; Tucker-2: 4.0×"."""
    ordered = sorted(points, key=lambda p: p[key], reverse=reverse)
    return "; ".join(f"{NAMES[p['method']]}: {form.format(p[key])}" for p in ordered)
