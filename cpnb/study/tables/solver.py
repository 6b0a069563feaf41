"""The recorded benchmark of CP solvers: ours, and those of other packages."""

from __future__ import annotations

import math
from statistics import mean, median

from cpnb.study.machines import hardware
from cpnb.study.selection import chosen, grouped, newest, newest_code
from cpnb.study.tables.layout import NOTHING, Table, show, to_be_made

PLAIN, BOUNDED, ALS = "cpnb, plain", "cpnb, stable", "cpnb ALS"
OWN = (PLAIN, BOUNDED, ALS)
LONG = "TensorLy, svd, 400 iterations"
NAMES = {
    "TensorLy": "TensorLy",
    "pyttb": "pyttb",
    "pygenten": "GenTen",
    "TensorFox": "Tensor Fox",
    PLAIN: "cpnb NLS, plain",
    BOUNDED: "cpnb NLS, bounded",
    ALS: "cpnb ALS",
}
PEER_TIME = 10  # a peer gets this many times our seconds
MISSING = to_be_made("make bench-solver")
SEEDS = "median ± half the range over seeds (nothing beside it: one seed)"
EXACT = 5e-4  # below this an error is told by its power of ten


def error(value: float) -> str:
    """0.7845 → "0.7845", 2.4e-14 → "2e−14"."""
    if value >= EXACT or value == 0:
        return f"{value:.4f}"
    digit, power = f"{value:.0e}".split("e")
    return f"{digit}e−{-int(power)}"


def scatter(errors: list[float]) -> str:
    """Median and half the range, narrow enough for a column a solver: "0.7845 ± 0.0009".

    Runs that are exact but for some seeds differ by powers of ten; there the largest is told.
    """
    if not errors:
        return NOTHING
    if len(errors) == 1:
        return error(errors[0])
    if median(errors) < EXACT:
        return f"{error(median(errors))} (≤ {error(max(errors))})"
    return f"{median(errors):.4f} ± {(max(errors) - min(errors)) / 2:.4f}"


def _name(run: dict, key: str = "tensor") -> str:
    return f"{run[key].partition(', R=')[0]}, R={run['rank']}"


def _runs(rows: list[dict] | None) -> list[dict]:
    """The newest run of each tensor, method and seed; of our own solvers, of the newest code."""
    rows = chosen(rows, claim="solver-benchmark")
    ours = newest_code([r for r in rows if r["method"] in OWN], "tensor", "method")
    peers = [r for r in rows if r["method"] not in OWN]  # a commit of ours does not change them
    order = list(dict.fromkeys(row["tensor"] for row in rows))
    runs = newest([*ours, *peers], "tensor", "method", "seed")
    return sorted(runs, key=lambda run: order.index(run["tensor"]))


def solver_errors(rows: list[dict] | None = None) -> Table:
    """Relative error of each solver on each tensor, in float64.

    Parameters
    ----------
    rows : list of dict, optional
        Records of ``make bench-solver``; the committed ones by default.
    """
    lines, shown = [], []
    for runs in grouped(_runs(rows), "tensor"):
        seconds = max((r["limit_seconds"] for r in runs if r["method"] in OWN), default=0)
        kept = [run for run in runs if run["limit_seconds"] <= PEER_TIME * seconds]
        if not kept:  # interrupted before ours ran
            continue
        line = {"tensor": _name(kept[0]), "seconds": seconds}
        for method in NAMES:
            line[method] = scatter([r["rel_error"] for r in kept if r["method"] == method])
        lines.append(line)
        shown += kept
    columns = {"tensor": ("tensor", "{}"), "seconds": ("seconds", "{:g}")}
    columns |= {method: (name, "{}") for method, name in NAMES.items()}
    return show(lines, columns, MISSING, f"relative error, {SEEDS}; {hardware(shown)}")


def solver_seconds(rows: list[dict] | None = None) -> Table:
    """Seconds until the error that TensorLy reaches, started by SVD, in 400 iterations.

    Parameters
    ----------
    rows : list of dict, optional
        Records of ``make bench-solver``; the committed ones by default.
    """
    runs = _runs(rows)
    by_name = {(run["tensor"], run["method"], run["seed"]): run for run in runs}
    lines, shown = [], []
    for long in grouped([run for run in runs if run["method"] == LONG], "tensor"):
        seconds = {LONG: [run["trace"][-1][0] for run in long]}
        for method in (PLAIN, BOUNDED):
            ours = [by_name.get((run["tensor"], method, run["seed"])) for run in long]
            seconds[method] = [_seconds_to(*pair) for pair in zip(ours, long, strict=True)]
            shown += [run for run in ours if run]
        pairs = zip(seconds[LONG], seconds[BOUNDED], strict=True)
        line = {"tensor": _name(long[0]), "seeds": len(long)}
        line["error"] = scatter([run["rel_error"] for run in long])
        line["factor"] = [theirs / ours for theirs, ours in pairs if ours]
        lines.append(line | seconds)
        shown += long
    columns = {
        "tensor": ("kernel", "{}"),
        "error": ("relative error to reach", "{}"),
        LONG: ("TensorLy (s)", "{:.1f}"),
        PLAIN: ("cpnb NLS, plain (s)", "{:.2f}"),
        BOUNDED: ("cpnb NLS, bounded (s)", "{:.2f}"),
        "factor": ("bounded is sooner by", "{:.0f}×"),
        "seeds": ("seeds", "{}"),
    }
    caption = f"median (range) over seeds, of errors ± half the range; {hardware(shown)}"
    return show(lines, columns, MISSING, caption)


def _seconds_to(ours: dict | None, theirs: dict) -> float | None:
    """When our error was as low as theirs for the first time; infinite if it never was."""
    if ours is None:
        return None
    return next((s for s, error in ours["trace"] if error <= theirs["rel_error"]), math.inf)


def solver_starts(rows: list[dict] | None = None) -> Table:
    """Relative error of bounded NLS after the same seconds, by kind of start.

    The last line is the mean over the kernels of the excess over the best start of each.

    Parameters
    ----------
    rows : list of dict, optional
        Records of ``make bench-solver``; the committed ones by default.
    """
    rows = newest_code(chosen(rows, claim="solver-starts"), "layer", "init")
    runs = newest(rows, "layer", "init", "seed")
    kinds = list(dict.fromkeys(run["init"] for run in runs))
    lines, excess = [], {kind: [] for kind in kinds}
    for same in grouped(runs, "layer"):
        errors = {kind: [r["rel_error"] for r in same if r["init"] == kind] for kind in kinds}
        line = {"kernel": _name(same[0], "layer"), "seconds": same[0]["limit_seconds"]}
        lines.append(line | {kind: scatter(found) for kind, found in errors.items()})
        medians = {kind: median(found) for kind, found in errors.items() if found}
        for kind, found in medians.items():
            excess[kind].append(found / min(medians.values()) - 1)
    if lines:
        told = {kind: f"{mean(shares):.3%}" for kind, shares in excess.items()}
        lines.append({"kernel": "above the best start, mean"} | told)
    columns = {"kernel": ("kernel", "{}"), "seconds": ("seconds", "{:g}")}
    columns |= {kind: (kind, "{}") for kind in kinds}
    return show(lines, columns, MISSING, f"relative error, {SEEDS}; {hardware(runs)}")
