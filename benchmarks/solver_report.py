"""The table and the figure of the solver benchmark, from its records.

python benchmarks/solver_report.py                                # of the committed records
python benchmarks/solver_report.py results/local/records.jsonl    # of your own
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import cpnb
from cpnb.runs.records import results_folder
from cpnb.study import figures

PLAIN, STABLE, LONG = "cpnb, plain", "cpnb, stable", "TensorLy, svd, 400 iterations"
OWN = (PLAIN, STABLE, "cpnb ALS")


# What makes two rows of a claim runs of the same thing.
KEYS = {
    "solver-benchmark": ("tensor", "method", "seed"),
    "solver-cost": ("layer", "method", "seed"),
    "solver-starts": ("layer", "init", "seed"),
    "solver-recovery": ("method", "seed"),
    "solver-scaling": ("shape", "rank"),
    "solver-memory": ("shape", "rank"),
    "solver-gpu": ("tensor", "rank", "n_starts", "device", "gpu"),
}


def rows_of(claim: str, path=None) -> list[dict]:
    """The rows of a claim, of equal runs the newest."""
    rows = cpnb.recorded(path, claim=claim)
    return list({tuple(str(r[key]) for key in KEYS[claim]): r for r in rows}.values())


def time_to(row: dict, error: float) -> float:
    return next((s for s, e in row["trace"] if e <= error), math.nan)


def comparison(rows: list[dict]) -> pd.DataFrame:
    """One line a tensor and solver: medians over the seeds."""
    frame = pd.DataFrame(rows)
    frame["seconds"] = [row["trace"][-1][0] for row in rows]
    grouped = frame.groupby(["tensor", "method"], sort=False)
    table = grouped[["rel_error", "degeneracy", "seconds", "iterations"]].median()
    table.insert(0, "seeds", grouped.size())
    spread = grouped["rel_error"].quantile([0.25, 0.75]).unstack()
    table.insert(2, "IQR", spread[0.75] - spread[0.25])
    return table


def by_seed(rows: list[dict], tensor: str) -> dict:
    """Row by seed and solver."""
    out: dict = {}
    for row in rows:
        if row["tensor"] == tensor:
            out.setdefault(row["seed"], {})[row["method"]] = row
    return out


def goals(rows: list[dict]) -> pd.DataFrame:
    """For each tensor the figures that the solver is judged by: medians over the seeds."""
    lines = {}
    for tensor in dict.fromkeys(row["tensor"] for row in rows):
        seeds = [s for s in by_seed(rows, tensor).values() if PLAIN in s and STABLE in s]
        if not seeds:  # interrupted before
            continue
        lines[tensor] = {
            "plain / best peer − 1": _median(_over_peers(s) for s in seeds),
            "stable / best unbounded − 1": _median(
                _excess(s[STABLE], [r for k, r in s.items() if k != STABLE]) for s in seeds
            ),
            "stable's degeneracy": max(s[STABLE]["degeneracy"] for s in seeds),
            "TensorLy-400's seconds / plain's": _median(_speedup(s, PLAIN) for s in seeds),
            "TensorLy-400's seconds / stable's": _median(_speedup(s, STABLE) for s in seeds),
        }
    return pd.DataFrame(lines).T


def _median(values) -> float:
    kept = [v for v in values if not math.isnan(v)]
    return median(kept) if kept else math.nan


def _excess(row: dict, others: list[dict]) -> float:
    """Relative error above the best of the others; exact fits count as 1e-6, all alike."""
    if not others:
        return math.nan
    best = min(r["rel_error"] for r in others)
    return max(row["rel_error"], 1e-6) / max(best, 1e-6) - 1


def _over_peers(seed: dict) -> float:
    return _excess(seed[PLAIN], [r for k, r in seed.items() if k not in OWN])


def _speedup(seed: dict, own: str) -> float:
    if LONG not in seed:
        return math.nan
    target = seed[LONG]["rel_error"]
    return seed[LONG]["trace"][-1][0] / time_to(seed[own], target)


def cost(rows: list[dict]) -> pd.DataFrame:
    """Stable against plain: seconds for the same number of steps, in turns."""
    frame = pd.DataFrame(rows)
    times = frame.pivot_table(index=["layer", "seed"], columns="method", values="seconds")
    return (times[STABLE] / times[PLAIN]).groupby("layer").median().rename("stable / plain")


def starts(rows: list[dict]) -> pd.DataFrame:
    """Median error over the seeds by kind of start."""
    frame = pd.DataFrame(rows)
    return frame.pivot_table(index="layer", columns="init", values="rel_error", aggfunc="median")


def recoveries(rows: list[dict]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    frame["found"] = frame["rel_error"] < 1e-8
    table = frame.groupby("method", sort=False)["found"].agg(["sum", "size"])
    return table.rename(columns={"sum": "found to 1e-8", "size": "of seeds"})


def scaling(rows: list[dict]) -> pd.DataFrame:
    """Seconds a step with the exponent against the line before: log2 of the ratio."""
    frame = pd.DataFrame(rows)
    frame["S = T"] = [shape[0] for shape in frame["shape"]]
    # The share of the step that is not conjugate gradients is of the same order: per iteration.
    table = frame[["S = T", "rank", "seconds_step", "cg_iterations"]]
    table = table.assign(per_cg=table["seconds_step"] / (table["cg_iterations"] + 3))
    for key, fixed in (("rank", "S = T"), ("S = T", "rank")):
        for value, part in table.groupby(fixed):
            if len(part) > 2:
                slope = np.polyfit(np.log(part[key]), np.log(part["per_cg"]), 1)[0]
                print(f"cost grows with {key} at {fixed} = {value} like {key}^{slope:.2f}")
    return table


def on_gpu(rows: list[dict]) -> pd.DataFrame:
    """Seconds a step by device."""
    frame = pd.DataFrame(rows)
    return frame.pivot_table(
        index=["tensor", "rank", "n_starts"], columns="device", values="seconds_step"
    )


def draw(rows: list[dict], path) -> None:
    """Error against seconds, one panel a tensor; the first seed of each."""
    rows = [row for row in rows if row["method"] != LONG]
    names = list(dict.fromkeys(row["tensor"] for row in rows))
    columns = min(4, len(names))
    lines = math.ceil(len(names) / columns)
    figures.use_style()
    fig, axes = plt.subplots(
        lines, columns, figsize=(4.2 * columns, 3.3 * lines), squeeze=False, layout="constrained"
    )
    methods = list(dict.fromkeys(row["method"] for row in rows))
    colour = {m: f"C{i}" for i, m in enumerate(methods)}
    for ax, name in zip(axes.flat, names, strict=False):
        here = [row for row in rows if row["tensor"] == name]
        for row in here:
            if row["seed"] == min(r["seed"] for r in here):
                seconds, error = zip(*row["trace"], strict=True)
                error = np.maximum(error, 1e-15)
                width = 2.2 if row["method"] in OWN else 1.2
                mark = "o" if len(seconds) < 3 else None
                ax.plot(seconds, error, color=colour[row["method"]], lw=width, marker=mark, ms=4)
        exact = min(row["rel_error"] for row in here) < 1e-3
        ax.set(xscale="log", yscale="log" if exact else "linear", title=name)
        if not exact:
            low = min(row["rel_error"] for row in here)
            ax.set_ylim(low * 0.998, low * 1.05)
    for ax in axes.flat[len(names) :]:
        ax.axis("off")
    for ax in axes[-1]:
        ax.set_xlabel("seconds")
    fig.supylabel("relative error ‖T−T̂‖/‖T‖")
    handles = [plt.Line2D([], [], color=colour[m], lw=2, label=m) for m in methods]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(methods), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path)
    plt.close(fig)


def show(path=None) -> None:
    """Print all tables and draw the figure; rows of ``path`` (the committed file by default)."""
    rows = rows_of("solver-benchmark", path)
    pd.set_option("display.width", 160, "display.max_rows", 500, "display.max_columns", 20)
    if rows:
        last = rows[-1]
        print(f"\n{last['cpu']}, {last['threads']} threads, float64, {last['versions']}")
        print(f"peers: {last['peers']}\n")
        print(comparison(rows).to_string(float_format="{:.5g}".format))
        print("\nMedians over the seeds")
        print(goals(rows).to_string(float_format="{:.4g}".format))
        figure = results_folder() / "solver.svg"
        draw(rows, figure)
        print(f"\nfigure: {figure}")
    for claim, table in (("solver-cost", cost),
        ("solver-starts", starts), ("solver-recovery", recoveries),
                         ("solver-scaling", scaling), ("solver-gpu", on_gpu)):  # fmt: skip
        if found := rows_of(claim, path):
            print(f"\n{claim}")
            print(table(found).to_string())
    for row in rows_of("solver-memory", path):
        for key, what in (("extra_bytes", "kept by malloc"), ("in_use_bytes", "in use")):
            if key in row:
                times = row[key] / row["tensor_and_factors_bytes"]
                print(
                    f"\nextra memory {row['shape']}, R={row['rank']}, {what}: "
                    f"{row[key] / 1e6:.0f} MB = {times:.1f} × tensor and factors"
                )


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", nargs="?", type=Path, help="of records; default: those committed")
    path = parser.parse_args(arguments).path
    if path and not path.exists():
        parser.error(f"{path}: no such file; accepted is one of records, in JSON Lines")
    show(path)


if __name__ == "__main__":
    main()
