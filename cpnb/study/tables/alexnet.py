"""Recorded runs of AlexNet's conv2: its kernel, its speed, the fine-tuned net; and SqueezeNet."""

from __future__ import annotations

from cpnb.study.commands import (
    ALEXNET_FINETUNE,
    ALEXNET_KERNEL,
    ALEXNET_LATENCY,
    ALEXNET_TUNE,
    SQUEEZENET,
)
from cpnb.study.intervals import sureness, widest
from cpnb.study.machines import hardware, machine
from cpnb.study.selection import chosen, grouped, lost, newest, newest_code
from cpnb.study.tables.finetuning import averaged
from cpnb.study.tables.kernels import SOLVERS
from cpnb.study.tables.layout import (
    Format,
    Table,
    percent,
    rounded,
    show,
    times,
    to_be_made,
    together,
)
from cpnb.study.tables.speed import inference

SQUEEZED = {
    "dense": "dense",
    "nls + patches": "NLS, then patches",
    "nls + channels": "NLS, channels",
    "nls": "NLS, kernel alone",
    "jaderberg": "Jaderberg, scheme 2",
    "greedy": "greedy, term by term",
}

KERNEL_FITS = {
    "rank_per_group": ("R in each group", "{}"),
    "method": ("method", lambda name: SOLVERS.get(name, name)),
    "block_diagonal": ("decomposed", lambda one: "block-diagonal" if one else "per group"),
    "rank": ("its rank", "{}"),
    "rel_error": ("relative error", "{:.4f}"),
    "degeneracy": ("degeneracy", rounded),
    "seconds": ("seconds", "{:.1f}"),
}  # of the fits that 07 makes
TOP_K = {
    "rank": ("R in each group", "{}"),
    "rel_error": ("relative error", "{:.3f}"),
    "top1_dense": ("top-1, dense", percent),
    "top1_decomposed": ("top-1, decomposed", percent),
    "top1_finetuned": ("top-1, fine-tuned", percent),
    "top5_dense": ("top-5, dense", percent),
    "top5_decomposed": ("top-5, decomposed", percent),
    "top5_finetuned": ("top-5, fine-tuned", percent),
    "bound": ("fewer multiplies", "{:.2f}×"),
    "speedup_optimised": ("speed-up over dense in PyTorch, optimised", times),
}  # of the nets that 07 tries on given images


def kernel_fits(rows: list[dict] | None = None) -> list[dict]:
    """Runs that decompose the small AlexNet's conv2, with R (in each group) and fit (its name).

    Those with as many steps as the newest count; of each fit and R the newest code, by rank.
    """
    runs = chosen(rows, claim="alexnet-conv2")
    runs = [run for run in runs if run["n_iter_max"] == runs[-1]["n_iter_max"]]
    # A row without R in each group is of a grouped kernel, where R is the rank.
    named = [
        run | {"R": run.get("rank_per_group", run["rank"]), "fit": _fit_name(run)} for run in runs
    ]
    order = list(SOLVERS)
    named.sort(key=lambda run: (run["R"], run["block_diagonal"], order.index(run["method"])))
    return newest(newest_code(named, "R", "fit"), "R", "fit", "seed")


def _fit_name(run: dict) -> str:
    return SOLVERS[run["method"]] + (", block-diagonal" if run["block_diagonal"] else "")


def alexnet_kernels(rows: list[dict] | None = None) -> Table:
    """Error and degeneracy of conv2's kernel by rank and method, per group and block-diagonal.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    runs = kernel_fits(rows)
    lines = [
        group[0] | together(group, "seconds", "bound") | _of_seeds(group, "rel_error", "degeneracy")
        for group in grouped(runs, "R", "fit")
    ]
    columns = {
        "R": ("R in each group", "{}"),
        "fit": ("method", "{}"),
        "rel_error": ("relative error", _mean("{:.4f}".format)),
        "degeneracy": ("degeneracy", _mean(rounded)),
        "seconds": ("seconds", "{:.1f}"),
        "bound": ("fewer multiplies", "{:.2f}×"),
        "seeds": ("seeds", "{}"),
    }
    steps = f"{runs[0]['n_iter_max']} steps or sweeps; " if runs else ""
    caption = f"{steps}mean and range of the seeds (seconds: median); {hardware(runs)}"
    return show(lines, columns, to_be_made(ALEXNET_KERNEL), caption)


def _of_seeds(runs: list[dict], *keys: str) -> dict:
    """Values of some seeds, for columns that `_mean` tells."""
    return {key: tuple(run[key] for run in runs) for key in keys} | {"seeds": len(runs)}


def _mean(form: Format):
    """Mean and range of the values of a column."""
    return lambda values: averaged(list(values), form)


def layer_latencies(rows: list[dict] | None = None) -> list[dict]:
    """Timed runs of the real conv2, with on (the machine); of each case the newest code."""
    runs = newest_code(chosen(rows, claim="alexnet-latency"), "batch", "rank")
    runs = [run | {"on": machine(run)} for run in runs]
    return sorted(runs, key=lambda run: (run["batch"], run["rank"]))


def alexnet_latencies(rows: list[dict] | None = None) -> Table:
    """Speed of the real conv2, factored and optimised, against the dense layer.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    runs = layer_latencies(rows)
    lines = [
        group[0]
        | together(group, "bound", "speedup", "speedup_optimised")
        | {
            "dense": [run["latencies"]["dense"]["median_ms"] for run in group],
            "runs": len(group),
        }
        for group in grouped(runs, "batch", "rank", "on")
    ]
    columns = {
        "batch": ("images at a time", "{}"),
        "rank": ("R in each group", "{}"),
        "dense": ("dense (ms)", rounded),
        "speedup": ("speed-up over dense in PyTorch, factored", "{:.2f}×"),
        "speedup_optimised": ("… optimised", "{:.2f}×"),
        "bound": ("fewer multiplies", "{:.2f}×"),
    }
    if len({line["on"] for line in lines}) > 1:  # else the caption tells it
        columns["on"] = ("on", "{}")
    columns["runs"] = ("runs", "{}")
    return show(lines, columns, to_be_made(ALEXNET_LATENCY), hardware(runs))


def alexnet_runtimes(rows: list[dict] | None = None, threads: int = 2) -> Table:
    """One or both groups of conv2 in all runtimes: speed-ups over the fastest dense layer.

    Parameters
    ----------
    rows, threads
        See `tables.inference`.
    """
    runs = chosen(rows, claim="inference")
    runs = [run for run in runs if run["case"].startswith("AlexNet conv2")]
    return inference(sorted(runs, key=lambda run: run["case"]), threads)


def alexnet_rates(rows: list[dict] | None = None) -> Table:
    """The learning rates that were tried on training images that are held back.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    keys = ("method", "rank", "lr", "epochs")
    runs = newest_code(chosen(rows, claim="alexnet-tune"), *keys)
    kept = ("accuracy_baseline_validation", "accuracy_validation")
    lines = [
        group[0] | together(group, *kept) | {"seeds": len(group)}
        for group in grouped(newest(runs, *keys, "seed"), *keys)
    ]
    columns = {
        "rank": ("R in each group", "{}"),
        "lr": ("learning rate", "{:g}"),
        "epochs": ("epochs", "{}"),
        "accuracy_baseline_validation": ("accuracy, dense", "{:.2%}"),
        "accuracy_validation": ("accuracy, fine-tuned", "{:.2%}"),
        "seeds": ("seeds", "{}"),
    }
    sizes = [run["validation_size"] for run in runs]
    sure = widest((run["accuracy_validation"], run["validation_size"]) for run in runs)
    held = f"{sizes[-1]:,} validation images of CIFAR-10 (JPEG copy), {sure}; " if runs else ""
    return show(lines, columns, to_be_made(ALEXNET_TUNE), f"{held}{hardware(runs)}")


def alexnet_finetuning(rows: list[dict] | None = None) -> Table:
    """The small AlexNet on CIFAR-10 with conv2 replaced, then fine-tuned: accuracy on test images.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default. Rows that do not say on whose images the learning
        rate was chosen are older: it was on test images.
    """
    runs = newest_code(chosen(rows, claim="alexnet-finetune"), "method", "rank")
    keys = ("method", "rank", "lr", "chosen_on")
    runs = newest([run | _chosen_on(run) for run in runs], *keys, "seed")
    groups = grouped(sorted(runs, key=lambda run: run["rank"]), *keys)
    columns = {
        "rank": ("R in each group", "{}"),
        "rate": ("learning rate, and the images it was chosen on", "{}"),
        "rel_error": ("relative error", _mean("{:.3f}".format)),
        "accuracy_baseline": ("dense", _mean("{:.2%}".format)),
        "accuracy_decomposed": ("decomposed", _mean("{:.2%}".format)),
        "accuracy_finetuned": ("fine-tuned", _mean("{:.2%}".format)),
        "drop": ("drop (points)", _mean("{:.2f}".format)),
        "seeds": ("seeds", "{}"),
    }
    lines = [group[0] | _of_seeds(group, *list(columns)[2:-1]) for group in groups]
    sure = sureness(runs, "accuracy_baseline", "accuracy_decomposed", "accuracy_finetuned")
    told = (
        f"{runs[-1]['test_size']:,} test images of CIFAR-10 (JPEG copy), {sure}; " if runs else ""
    )
    caption = f"{told}mean and range of the seeds; {hardware(runs)}"
    return show(lines, columns, to_be_made(ALEXNET_FINETUNE.format("200 140")), caption)


def _chosen_on(run: dict) -> dict:
    part = "validation" if run.get("lr_chosen_on") == "validation" else "test"
    return {"chosen_on": part, "rate": f"{run['lr']:g}, {part}", "drop": lost(run)}


def squeezed(rows: list[dict] | None = None) -> list[dict]:
    """SqueezeNet's runs by drop of accuracy, of each method the newest; drop1, drop5 in points."""
    runs = newest(chosen(rows, claim="squeezenet"), "method")
    runs = [
        run
        | {f"drop{k}": 100 * (run[f"top{k}_dense"] - run[f"top{k}"]) for k in (1, 5)}
        | {"name": SQUEEZED[run["method"]]}
        for run in runs
    ]
    return sorted(runs, key=lambda run: run["drop5"])


def squeezenet(rows: list[dict] | None = None) -> Table:
    """What a decomposition alone costs SqueezeNet on ImageNet's images.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    runs = squeezed(rows)
    columns = {
        "name": ("method", "{}"),
        "top1": ("top-1", percent),
        "top5": ("top-5", percent),
        "drop1": ("drop, top-1 (points)", "{:.1f}"),
        "drop5": ("drop, top-5 (points)", "{:.1f}"),
        "multiplies": ("multiplies an image (million)", lambda n: f"{n / 1e6:.0f}"),
        "seconds": ("seconds", "{:.0f}"),
    }
    told = f"{runs[-1]['test_size']} validation images of ImageNet; " if runs else ""
    told += f"accuracies: {sureness(runs, 'top1', 'top5')}; "
    return show(runs, columns, to_be_made(SQUEEZENET), f"{told}{hardware(runs)}")
