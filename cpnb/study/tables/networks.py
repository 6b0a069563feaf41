"""Recorded runs of whole networks: compressed without labels, and what else one could do."""

from __future__ import annotations

from cpnb.study.intervals import sureness, with_interval
from cpnb.study.machines import cpu, hardware
from cpnb.study.selection import chosen, grouped, newest, newest_code
from cpnb.study.tables.layout import (
    Table,
    percent,
    points,
    rounded,
    show,
    spread,
    times,
    to_be_made,
)
from cpnb.study.tables.speed import milliseconds, scatter

SCATTER = "median ± half the inter-quartile range"
COMPRESS = "CPNB_DATA=... .venv/bin/python benchmarks/bench_compress.py resnet20 --weights FILE"
KEEP = '--save-to "{factor}-{seed}.safetensors"'
FORMS = "CPNB_DATA=... .venv/bin/python benchmarks/forms.py resnet20 --weights FILE"
ALTERNATIVES = "CPNB_DATA=... .venv/bin/python benchmarks/bench_alternatives.py"
TUNED = "CIFAR-10 as a JPEG copy; below 0: above the dense net as it was; median and range; "
FORMER_SHARE = 0.9  # of a teacher, in records that do not tell it
NETS = {
    "resnet20": "ResNet-20", "resnet56": "ResNet-56", "squeezenet": "SqueezeNet, 3×3 layers",
    "resnet18": "ResNet-18", "charnet": "CharNet",
}  # fmt: skip


def compressions(rows: list[dict] | None = None) -> Table:
    """Accuracy lost without training, by a plan of ranks and by one rate for all layers.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    runs = newest(chosen(rows, claim="compress"), "net", "factor", "allocation", "seed")
    lines = []
    for group in grouped(
        sorted(runs, key=lambda run: (run["net"], run["factor"])), "net", "factor"
    ):
        drops = {
            how: [run["drop"] for run in group if run["allocation"] == how]
            for how in ("plan", "one rate")
        }
        lines.append(
            {
                "net": NETS[group[0]["net"]],
                "factor": group[0]["factor"],
                "dense": _dense(group[0]),
                "plan": drops["plan"],
                "one rate": drops["one rate"],
                "seeds": len({run["seed"] for run in group}),
                "seconds": [run["seconds"] for run in group if run["allocation"] == "plan"],
            }
        )
    columns = {
        "net": ("net", "{}"),
        "factor": ("fewer multiplies", times),
        "dense": ("dense accuracy", "{}"),
        "plan": ("drop by the plan (points)", points),
        "one rate": ("drop at one rate (points)", points),
        "seeds": ("samples of images", "{}"),
        "seconds": ("seconds to compress", "{:.0f}"),
    }
    told = "no label, no training; ResNets on CIFAR-10, a JPEG copy; median and range; accuracies: "
    told += f"{sureness(runs, 'accuracy', 'accuracy_dense')}; "
    if any(run["net"] == "charnet" for run in runs):
        told += "CharNet: drawn characters; "
    if any(run["net"] == "squeezenet" for run in runs):
        told += "SqueezeNet: ImageNet images, top-5, multiplies of its 3×3 layers alone; "
    return show(lines, columns, to_be_made(COMPRESS), told + hardware(runs))


def tuned(rows: list[dict] | None = None) -> Table:
    """Compressed nets after fine-tuning the whole net with labels, and the dense one as long."""
    runs = [{"teacher": False} | run for run in chosen(rows, claim="compress-finetune")]
    runs = newest(runs, "net", "factor", "seed", "epochs", "teacher")
    how = "net", "teacher", "epochs", "factor"
    runs = sorted(runs, key=lambda run: [run[key] for key in how])
    columns = {
        "net": ("net", "{}"),
        "factor": ("fewer multiplies", lambda factor: times(factor) if factor > 1 else "dense"),
        "epochs": ("epochs", "{}"),
        "lr": ("learning rate", "{}"),
        "share": ("teacher (share of the loss)", lambda share: f"{share:.0%}" if share else "–"),
        "dense": ("dense as it was", "{}"),
        "before": ("drop before (points)", points),
        "drop": ("drop fine-tuned (points)", points),
        "seeds": ("samples of images", "{}"),
    }
    lines = [
        {
            "net": NETS[group[0]["net"]],
            "factor": group[0]["factor"],
            "epochs": group[0]["epochs"],
            "lr": group[0]["parameters"]["lr"],
            "share": group[0]["teacher"] and group[0]["parameters"].get("share", FORMER_SHARE),
            "dense": _dense(group[0]),
            "before": [run["accuracy_dense"] - run["accuracy_compressed"] for run in group],
            "drop": [run["drop"] for run in group],
            "seeds": len(group),
        }
        for group in grouped(runs, *how)
    ]
    tune = (
        "benchmarks/finetune_compressed.py resnet20 --weights FILE --teacher --epochs 10 --lr 0.05"
    )
    counted = ("accuracy_dense", "accuracy_compressed", "accuracy_finetuned")
    sure = f"accuracies: {sureness(runs, *counted)}; "
    made = to_be_made(f"{COMPRESS} {KEEP} && {tune}")
    return show(lines, columns, made, TUNED + sure + hardware(runs))


def _dense(run: dict) -> str:
    return with_interval(run["accuracy_dense"], run["test_size"])


def compress_seconds(rows: list[dict] | None = None) -> Table:
    """How long a plan and its compression take."""
    runs = newest(chosen(rows, claim="compress-seconds"), "net", "factor", "images", "threads")
    columns = {
        "name": ("net", "{}"),
        "factor": ("fewer multiplies", times),
        "images": ("unlabelled images", "{}"),
        "seconds_plan": ("plan (seconds)", "{:.0f}"),
        "seconds_compress": ("compress (seconds)", "{:.0f}"),
    }
    lines = [run | {"name": NETS[run["net"]]} for run in runs]
    made = ".venv/bin/python benchmarks/bench_compress.py resnet18 --factors 2.4 --images 128"
    return show(lines, columns, to_be_made(made), hardware(runs))


def forms(rows: list[dict] | None = None) -> Table:
    """Five forms of single layers at equal multiplies: CP's error, and the others' over it."""
    runs = newest(chosen(rows, claim="forms"), "net", "layer", "rate")
    lines = []
    for group in grouped(sorted(runs, key=lambda r: (r["net"], r["rate"])), "net", "rate"):
        errors = [run["errors"] for run in group]
        over = {
            form: [each[form] ** 2 / each["CP"] ** 2 for each in errors]
            for form in errors[0] if form != "CP"
        }  # fmt: skip
        line = {"net": NETS[group[0]["net"]], "rate": group[0]["rate"], "layers": len(group)}
        lines.append(line | {"CP": [each["CP"] for each in errors]} | over)
    others = (
        [key for key in lines[0] if key not in ("net", "rate", "layers", "CP")] if lines else []
    )
    columns = {
        "net": ("net", "{}"),
        "rate": ("fewer multiplies", times),
        "layers": ("layers", "{}"),
        "CP": ("CP, relative error", lambda error: f"{error:.2f}"),
        **{form: (form, "{:.2f}×") for form in others},
    }
    told = "CP: relative error of a layer's outputs; other forms: squared error over CP's; "
    told += "median and range of layers; "
    return show(lines, columns, to_be_made(FORMS), told + hardware(runs))


def layer_speeds(rows: list[dict] | None = None) -> list[dict]:
    """The newest recorded speed-ups of single layers: kernel, maps, size, batch, speedup, bound."""
    return newest(
        newest_code(chosen(rows, claim="layer-speedup")), "kernel", "channels", "size", "batch"
    )


def alternatives(rows: list[dict] | None = None) -> Table:
    """What else one could do with the same net: quantise, prune, take a smaller one.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default. Of each net on each processor the newest code
        counts.
    """
    runs = [run | {"on": cpu(run)} for run in chosen(rows, claim="alternatives")]
    runs = newest(newest_code(runs, "net", "on"), "net", "on", "name", "factor")
    # What does not hang on the number of multiplies is told once.
    by_factor = [("CP" in run["name"] or "same" in run["name"]) * run["factor"] for run in runs]
    runs = [
        run | {"factor": factor} | _told(run) for run, factor in zip(runs, by_factor, strict=True)
    ]
    runs = newest(runs, "net", "on", "name", "factor")
    dense = {(run["net"], run["on"]): run["multiplies"] for run in runs if run["name"] == "dense"}
    runs = [
        run | {"factor": run["factor"] and _own_factor(run, dense.get((run["net"], run["on"])))}
        for run in runs
    ]
    runs.sort(key=lambda run: run["net"])  # what one net gains on two processors stands together
    columns = {
        "of": ("net", "{}"),
        "on": ("on", "{}"),
        "told": ("in its place", "{}"),
        "factor": ("fewer multiplies", lambda factor: times(factor) if factor else "–"),
        "runtime": ("runtime", "{}"),
        "accuracy": ("accuracy", percent),
        "multiplies": ("multiplies an image (million)", lambda n: rounded(n / 1e6)),
        "ms": ("ms a batch", "{}"),
        "in ONNX Runtime": ("in ONNX Runtime (ms)", milliseconds),
        "speedup": ("speed-up over the dense net", lambda x: spread([x], times)),
        "labels": ("needs", "{}"),
    }
    told = f"batches of {runs[-1]['batch']}; {SCATTER}; " if runs else ""
    told += (
        f"the dense net in the fastest of PyTorch{_without_compile(runs)}, ONNX Runtime, OpenVINO; "
    )
    told += f"accuracies: {sureness(runs, 'accuracy')}; "
    return show(runs, columns, to_be_made(ALTERNATIVES), told + hardware(runs))


def _without_compile(runs: list[dict]) -> str:
    """ " (no torch.compile on some CPU)": where the benchmark's code was an earlier one."""
    compiled = {(run["net"], run["on"]) for run in runs if "torch.compile" in run["latencies"]}
    left = {run["on"] for run in runs if (run["net"], run["on"]) not in compiled}
    return f" (no torch.compile on {', '.join(sorted(left))})" if left else ""


def _own_factor(run: dict, dense: float | None) -> float:
    """How many times fewer multiplies a net takes itself, or was to take if that is unknown."""
    return dense / run["multiplies"] if dense else run["factor"]


def _at_most(name: str) -> str:
    """Of a rival's whole ranks, or channels, the most that take no more multiplies than CP."""
    return name.replace("same multiplies", "at most as many multiplies as CP")


def _told(run: dict) -> dict:
    """The names of a contender and its net, its milliseconds with their spread."""
    name = run["name"]
    return {
        "of": NETS[run["net"]],
        "told": _at_most(f"a dense {name}" if name in NETS.values() else name),
        "ms": f"{milliseconds(run['ms'])} ± {scatter(run['iqr_ms'] / 2)}",
        "in ONNX Runtime": run["latencies"].get("ONNX Runtime"),
    }
