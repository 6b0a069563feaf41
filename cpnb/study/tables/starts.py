"""Which CP fits survive fine-tuning: four solvers, and what might save the paper's."""

from __future__ import annotations

from statistics import median

from cpnb.study.commands import PLAIN, STARTS
from cpnb.study.findings import counted
from cpnb.study.intervals import sureness
from cpnb.study.selection import chosen, grouped, newest, newest_code, setting, start
from cpnb.study.tables.layout import (
    NOTHING,
    Table,
    percent,
    rounded,
    show,
    spread,
    to_be_made,
    together,
)

SETTINGS = ("init", "n_iter_max", "lr", "balanced")
INITS = {"svd": "SVD", "random": "random, as the paper's"}


def learning_rates(rows: list[dict] | None = None) -> Table:
    """Which start survives one short epoch a layer at a larger learning rate.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default. Of each start, rate and seed the newest run counts.
    """
    runs = [
        run | {"start": start(run), "lr": setting(run, "lr"), "degeneracy": run["degeneracy"][0]}
        for run in chosen(rows, claim="start-survival")
    ]
    runs = newest(runs, "start", "lr", "seed")
    rates = sorted({run["lr"] for run in runs})
    lines = []
    for group in grouped(runs, "start"):
        line = {"start": group[0]["start"]} | together(group, "accuracy_decomposed")
        line["degeneracy"] = median(run["degeneracy"] for run in group)
        for rate in rates:
            found = [run["accuracy_finetuned"] for run in group if run["lr"] == rate]
            line[rate] = (
                f"{spread(found, percent)}, {counted(len(found), 'run')}" if found else NOTHING
            )
        lines.append(line)
    columns = {
        "start": ("start", "{}"),
        "degeneracy": ("degeneracy of conv2", rounded),
        "accuracy_decomposed": ("accuracy, both decomposed", percent),
    }
    columns |= {rate: (f"fine-tuned, learning rate {rate:g}", "{}") for rate in rates}
    steps = spread([setting(run, "n_iter_max") for run in runs], "{:g}")
    caption = (
        "Median and range; CharNet on Chars74K's test split, ranks 64 and 64; "
        f"{sureness(runs, 'accuracy_decomposed', 'accuracy_finetuned')}; "
        f"solver: {steps} steps, sweeps, or sweeps a term"
    )
    return show(lines, columns, to_be_made(STARTS), caption)


def plain_starts(rows: list[dict] | None = None) -> Table:
    """Plain NLS, the paper's solver, and what its authors may have done to reach their accuracy.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    runs = newest_code([r for r in chosen(rows, claim="cp-start") if not r["max_degeneracy"]])
    groups = grouped([r for r in runs if r["lr"] <= 0.01], *SETTINGS)
    lines = []
    for group in sorted(groups, key=lambda g: -median(r["accuracy_finetuned"] for r in g)):
        first = group[0]
        lines.append(
            {
                "start": INITS[first["init"]],
                "steps": first["n_iter_max"],
                "lr": first["lr"],
                "balanced": "equal" if first["balanced"] else "in the last factor",
                "error": median(run["rel_error"][0] for run in group),
                "degeneracy": median(run["degeneracy"][0] for run in group),
                "decomposed": spread([run["accuracy"][0] for run in group], percent),
                "finetuned": spread([run["accuracy_finetuned"] for run in group], percent),
            }
        )
    columns = {
        "start": ("start", "{}"),
        "steps": ("steps", "{}"),
        "lr": ("learning rate", "{:g}"),
        "balanced": ("norms of a term", "{}"),
        "error": ("relative error of conv2", "{:.3f}"),
        "degeneracy": ("degeneracy of conv2", rounded),
        "decomposed": ("conv2 decomposed", "{}"),
        "finetuned": ("both fine-tuned", "{}"),
    }
    dense = f"{runs[0]['accuracy_baseline']:.1%}" if runs else ""
    seeds = spread([len(group) for group in groups], "{:g}")
    caption = (
        f"Accuracy on Chars74K's test split, median and range of {seeds} seeds; dense: {dense}; "
        f"{sureness(runs, 'accuracy_finetuned')}"
    )
    return show(lines, columns, to_be_made(PLAIN), caption)
