"""Recorded runs of the pipeline: its seeds, conv1 too, starts at larger rates, and one's own."""

from __future__ import annotations

from statistics import mean

from torch import nn

from cpnb.runs.records import recorded, results_path
from cpnb.study.commands import LOWER, REPLICATE, RUN_04
from cpnb.study.intervals import GOOD, half, sureness
from cpnb.study.machines import hardware
from cpnb.study.recording import fits
from cpnb.study.selection import (
    characters,
    chosen,
    grouped,
    lost,
    newest,
    pipeline_runs,
    ranks_of,
    setting,
    start,
)
from cpnb.study.tables.layout import (
    NOTHING,
    Format,
    Table,
    percent,
    rounded,
    show,
    spread,
    times,
    to_be_made,
)

STAGES = {"baseline": "baseline", "decomposed": "decomposed", "finetuned": "fine-tuned"}
# Of one net of a rank sweep, as `cpnb.study.sweeps.points` makes them.
SWEEP_POINTS = {
    "label": ("ranks of conv2/conv3", "{}"),
    "bound": ("fewer multiplies", "{:.2f}×"),
    "speedup": ("speed-up over dense in PyTorch", "{:.2f}×"),
    "drop_before": ("drop before fine-tuning (points)", "{:.1f}"),
    "drop_after": ("after", "{:.1f}"),
}
ACCURACIES = {f"accuracy_{stage}": (name, percent) for stage, name in STAGES.items()}


def averaged(values: list[float], form: Format) -> str:
    """Mean and range: "90.5% (90.3% to 90.5%)"; what all runs share stands alone."""
    told = spread(values, form)
    return told if "(" not in told else f"{form(mean(values))} {told[told.index('(') :]}"


def fitted(model: nn.Module, layers) -> Table:
    """The factored layers of a model: rank, relative error and degeneracy, as they were solved."""
    found = fits(model, layers)
    values = zip(
        *(found[key] for key in ("layers", "ranks", "rel_error", "degeneracy")), strict=True
    )
    columns = {
        "layer": ("layer", "{}"),
        "rank": ("rank R", "{}"),
        "error": ("relative error", "{:.4f}"),
        "degeneracy": ("degeneracy", rounded),
    }
    return show([dict(zip(columns, line, strict=True)) for line in values], columns)


def accuracies(measured: dict) -> Table:
    """Accuracy of each stage, on all characters and, where it differs, on GoodImg alone.

    Parameters
    ----------
    measured : dict
        ``accuracy_baseline``, ``accuracy_decomposed``, ``accuracy_finetuned``, and each of them
        with ``_good``; as 04 records them.
    """
    everything = {key: measured[key] for key in ACCURACIES}
    good = {key: measured[f"{key}_good"] for key in ACCURACIES}
    lines = [{"characters": "all"} | everything]
    lines += [{"characters": "GoodImg alone"} | good] if good != everything else []
    return show(lines, {"characters": ("characters", "{}")} | ACCURACIES)


def finetuning(rows: list[dict] | None = None) -> Table:
    """The paper's pipeline at ranks (64, 64): accuracy and speed-up, a column for each experiment.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default. Of each seed the newest run counts.
    """
    runs = newest(pipeline_runs(rows), "dataset", "start", "seed")
    groups = grouped(runs, "dataset", "start")
    lines = [
        {"what": what} | {number: tell(group) for number, group in enumerate(groups)}
        for what, tell in _told_of_the_pipeline().items()
        if groups
    ]
    columns = {"what": ("", "{}")}
    for number, group in enumerate(groups):
        columns[number] = (f"{characters(group[0])} characters; {group[0]['start']}", "{}")
    caption = f"Mean and range of the seeds (speed-up: median and range); {_sure_of_both(runs)}"
    return show(lines, columns, to_be_made(RUN_04), caption)


def _told_of_the_pipeline() -> dict:
    """Line of the table to what it tells of some runs."""

    def accuracy(key):
        return lambda runs: averaged([run[f"accuracy_{key}"] for run in runs], percent)

    def on_good_images(stage):
        told = accuracy(f"{stage}_good")
        return lambda runs: told(runs) if runs[0]["dataset"] == "chars74k" else NOTHING

    return {
        **{f"accuracy, {name}": accuracy(stage) for stage, name in STAGES.items()},
        "baseline, GoodImg alone": on_good_images("baseline"),
        "fine-tuned, GoodImg alone": on_good_images("finetuned"),
        "drop after fine-tuning (points)": lambda runs: averaged(
            [lost(run) for run in runs], "{:.2f}".format
        ),
        "speed-up over dense in PyTorch, batch of 64": lambda runs: spread(
            [run["speedup"] for run in runs]
        ),
        "fewer multiplies": lambda runs: spread([run["bound"] for run in runs]),
        "steps of the solver": lambda runs: spread(
            [setting(run, "n_iter_max") for run in runs], "{:g}"
        ),
        "test characters": lambda runs: spread([run["test_size"] for run in runs], "{:,.0f}"),
        "seeds": lambda runs: str(len(runs)),
        "on": hardware,
    }


def conv1_too(rows: list[dict] | None = None) -> Table:
    """CharNet on real characters with conv1 factored as well, beside the same nets without.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default. Of each seed the newest run counts.
    """
    runs = [
        run | _of_conv1(run)
        for run in chosen(rows, claim="charnet-finetune", dataset="chars74k", method="nls")
        if setting(run, "max_degeneracy")
    ]
    keys = ("conv2", "conv3", "conv1", "lr", "split")
    groups = grouped(newest(runs, *keys, "seed"), *keys)
    lines = [
        group[0]
        | {
            "drop": averaged([lost(run) for run in group], "{:.2f}".format),
            "seeds": len(group),
        }
        for group in sorted(groups, key=_by_split_and_size)
    ]
    columns = {
        "conv2": ("R of conv2", "{}"),
        "conv3": ("R of conv3", "{}"),
        "conv1": ("R of conv1, fitted to", "{}"),
        "bound": ("fewer multiplies", "{:.2f}×"),
        "lr": ("learning rate", "{:g}"),
        "split": ("measured on", "{}"),
        "drop": ("drop (points)", "{}"),
        "seeds": ("seeds", "{}"),
    }
    caption = (
        "CharNet on Chars74K, fine-tuned; drop: mean and range of the seeds; accuracies behind it: "
        f"{sureness(runs, 'accuracy_baseline', 'accuracy_finetuned')}"
    )
    return show(lines, columns, to_be_made(LOWER), caption)


def _by_split_and_size(group: list[dict]) -> tuple:
    return group[0]["split"], group[0]["conv2"], group[0]["bound"]


def _of_conv1(run: dict) -> dict:
    ranks = {"conv1": None, "conv2": 0, "conv3": 0} | ranks_of(run)
    fitted = "its patches" if setting(run, "fit_images", 0) else "its kernel"
    told = f"{ranks['conv1']}, {fitted}" if ranks["conv1"] else "dense"
    return ranks | {"conv1": told, "lr": setting(run, "lr"), "split": setting(run, "split", "test")}


def seeds(rows: list[dict] | None = None) -> Table:
    """The paper's main result on real characters, one line a run.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default. Of each seed the newest run counts.
    """
    runs = newest(pipeline_runs(rows, dataset="chars74k"), "start", "seed")
    columns = {"seed": ("seed", "{}"), "start": ("start", "{}")} | ACCURACIES
    columns |= {
        "accuracy_baseline_good": ("baseline, GoodImg", percent),
        "accuracy_finetuned_good": ("fine-tuned, GoodImg", percent),
        "speedup": ("speed-up over dense in PyTorch", times),
    }
    bound = spread([run["bound"] for run in runs], "{:.2f}×")
    caption = f"{bound} fewer multiplies; accuracies: {_sure_of_both(runs)}; {hardware(runs)}"
    return show(runs, columns, to_be_made(RUN_04), caption)


def _sure_of_both(runs: list[dict]) -> str:
    """How sure accuracies are, on all characters and on the real ones' GoodImg part alone."""
    told = sureness(runs, *ACCURACIES)
    good = [
        (run[f"{key}_good"], GOOD)
        for run in runs if run["dataset"] == "chars74k"
        for key in ("accuracy_baseline", "accuracy_finetuned")
    ]  # fmt: skip
    return f"{told}, on GoodImg alone ({GOOD}) {half(good)}" if good else told


def own_runs(rows: list[dict] | None = None, most: int = 25) -> Table:
    """What this machine has run of notebooks 00 and 04, newest last.

    Parameters
    ----------
    rows : list of dict, optional
        Records; by default those in the results folder of this machine.
    most : int
        The last so many.
    """
    rows = recorded(results_path()) if rows is None else rows
    runs = [row for row in rows if row["claim"] in ("quickstart", "charnet-finetune")][-most:]
    lines = [
        run
        | {
            "notebook": run.get("notebook", "")[:2],
            "characters": characters(run),
            "start": start(run),
            "ranks": ", ".join(map(str, run["ranks"])),
            "gain": f"{times(run['speedup'])}, {times(run['bound'])}",
        }
        for run in runs
    ]
    columns = {
        "notebook": ("notebook", "{}"),
        "characters": ("characters", "{}"),
        "start": ("start", "{}"),
        "ranks": ("ranks", "{}"),
        "seed": ("seed", "{}"),
        **ACCURACIES,
        "gain": ("speed-up over dense in PyTorch, and fewer multiplies", "{}"),
    }
    caption = f"accuracies: {sureness(runs, *ACCURACIES)}; {hardware(runs)}"
    return show(lines, columns, to_be_made(REPLICATE), caption)
