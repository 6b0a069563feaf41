"""Speed-ups: whole nets, optimised nets beside all runtimes, and by processor."""

from __future__ import annotations

from statistics import median

from cpnb.inference.latency import speedup
from cpnb.runs.records import plain
from cpnb.study.commands import RUN_05
from cpnb.study.machines import hardware, machine
from cpnb.study.selection import chosen, grouped, newest_code
from cpnb.study.tables.layout import Table, show, times, to_be_made, together

BOUND = "{:.2f}×"
SCATTER = "ms: median ± half the inter-quartile range, and the faster memory layout"
BENCHMARK = to_be_made("make bench-inference")
# Cases of the benchmark that were measured on several processors.
TOLD = (
    "CharNet, 64 patches",
    "CharNet, 64 patches, ranks 32 and 96",
    "CharNet, 64 patches, ranks 32 and 96, conv1 too",
    "CharNet, 240x320",
    "AlexNet conv2, R=200, batch 1",
    "AlexNet conv2, R=200, batch 32",
    "ResNet-18, 224x224, batch 1",
    "ResNet-18, 224x224, batch 8",
    "VGG-16-BN, 224x224, batch 1",
    "VGG-16-BN, 224x224, batch 1, linear too",
    "ResNet-56, 32x32, batch 64",
)
MEASURED = {
    "bound": ("fewer multiplies", BOUND),
    "speedup": ("speed-up over dense in PyTorch", BOUND),
    "dense": ("dense (ms)", "{}"),
    "factored": ("factored (ms)", "{}"),
}


def milliseconds(value: float) -> str:
    """Three digits: 0.2114 → "0.211", 8.3 → "8.30", 1944.5 → "1,944"."""
    return f"{value:#.3g}" if value < 99.5 else f"{value:,.0f}"


def scatter(value: float) -> str:
    """Two digits: 0.2114 → "0.21"."""
    return f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"


def _latencies(run: dict) -> dict:
    """Median, spread within the run and memory layout, of both nets."""
    run = plain(run)
    return {
        name: f"{milliseconds(told['median_ms'])} ± {scatter(told['iqr_ms'] / 2)}, {layout}"
        for name, told, layout in (
            ("dense", run["latency_dense"], run["layout_dense"]),
            ("factored", run["latency"], run["layout"]),
        )
    }


def bounds(dense: dict[str, int], factored: dict[str, int]) -> Table:
    """Multiplies of each stage of two nets, and their ratio; the last line is the whole nets'."""
    dense, factored = (counts | {"whole net": sum(counts.values())} for counts in (dense, factored))
    lines = [
        {
            "stage": stage,
            "dense": dense[stage],
            "factored": factored[stage],
            "bound": dense[stage] / factored[stage],
            "left": factored[stage] / factored["whole net"],
        }
        for stage in dense
    ]
    columns = {
        "stage": ("stage", "{}"),
        "dense": ("multiplies, dense", "{:,}"),
        "factored": ("factored", "{:,}"),
        "bound": ("fewer multiplies", BOUND),
        "left": ("share of what is left", "{:.0%}"),
    }
    return show(lines, columns)


def compared(runs: dict[str, dict]) -> Table:
    """What `study.versus` has just measured: latency as median ± half the inter-quartile range.

    Parameters
    ----------
    runs : dict of str to dict
        What the nets ran on, such as "cpu, 64 × 24×24", to the columns of `study.versus`.
    """
    lines = [run | _latencies(run) | {"input": name} for name, run in runs.items()]
    return show(lines, {"input": ("input", "{}")} | MEASURED, caption=SCATTER)


def latencies(found: dict, over: str, bound: float) -> Table:
    """What `cpnb.measure_fastest` has just measured.

    Parameters
    ----------
    found : dict of str to (str, Latency)
        Net to its faster memory layout and its latency there; names of dense nets begin with
        "dense".
    over : str
        The net that speed-ups are told over.
    bound : float
        Ratio of multiplies.
    """
    lines = []
    for name, (layout, latency) in found.items():
        gain = speedup(found[over][1], latency)
        line = {"net": name, "layout": layout, "ms": latency.median_ms, "iqr": latency.iqr_ms}
        share = None if name.startswith("dense") else gain / bound
        lines.append(line | {"speedup": gain, "share": share})
    columns = {
        "net": ("net", "{}"),
        "layout": ("layout", "{}"),
        "ms": ("median (ms)", milliseconds),
        "iqr": ("IQR (ms)", scatter),
        "speedup": (f"speed-up over {over}", times),
        "share": ("of the ratio", "{:.0%}"),
    }
    return show(lines, columns)


def stages(timed: dict[str, list[dict]]) -> Table:
    """Time, arithmetic and least traffic of each stage of some nets.

    Parameters
    ----------
    timed : dict of str to list of dict
        Net's name to what :func:`cpnb.inference.roofline.time_stages` returned.
    """
    lines = []
    for net, parts in timed.items():
        whole = {key: sum(part[key] for part in parts) for key in ("ms", "multiplies")}
        for part in parts:
            line = {"net": net, "of_time": part["ms"] / whole["ms"], "mb": part["bytes"] / 1e6}
            line["of_multiplies"] = part["multiplies"] / whole["multiplies"]
            line["rate"] = 2 * part["multiplies"] / part["ms"] / 1e6
            line["intensity"] = 2 * part["multiplies"] / part["bytes"]
            lines.append(part | line)
    columns = {
        "net": ("net", "{}"),
        "stage": ("stage", "{}"),
        "ms": ("ms", "{:.2f}"),
        "of_time": ("share of time", "{:.0%}"),
        "of_multiplies": ("share of multiplies", "{:.0%}"),
        "rate": ("GFLOP/s", "{:.0f}"),
        "intensity": ("FLOP/B", "{:.1f}"),
        "mb": ("MB", "{:.1f}"),
    }
    return show(lines, columns)


def speedups(rows: list[dict] | None = None) -> Table:
    """Recorded speed-ups of CharNet, factored as the paper does it, in plain PyTorch.

    Parameters
    ----------
    rows : list of dict, optional
        Records; the committed ones by default. On each machine the newest code counts.
    """
    runs = [
        run | {"machine": machine(run), "input": _input(run["input"])}
        for run in chosen(rows, claim="speedup", what="CharNet")
    ]
    keys = ("machine", "input", "ranks")
    runs = newest_code(runs, *keys)
    lines = [
        group[-1] | _latencies(group[-1]) | together(group, "speedup") | _of_group(group)
        for group in grouped(runs, *keys)
    ]
    columns = {"input": ("input", "{}"), "ranks_told": ("ranks", "{}")} | MEASURED
    columns |= {"runs": ("runs", "{}")}
    return _of_machines(lines, columns, f"{SCATTER}; {hardware(runs)}", to_be_made(RUN_05))


def _of_group(group: list[dict]) -> dict:
    return {"ranks_told": " and ".join(map(str, group[0]["ranks"])), "runs": len(group)}


def _input(shape: list[int]) -> str:
    """[64, 1, 24, 24] → "64 patches"; [1, 1, 240, 320] → "image, 240×320"."""
    count, _, height, width = shape
    if (height, width) != (24, 24):
        return f"image, {height}×{width}"
    return f"{count} patches" if count > 1 else "1 patch"


def _of_machines(lines: list[dict], columns: dict, caption: str, empty: str) -> Table:
    """The machine stands above the table if all lines share it, else in a column of its own."""
    if len({line["machine"] for line in lines}) > 1:
        columns = columns | {"machine": ("on", "{}")}
    return show(lines, columns, empty, caption)


def _inference_runs(rows: list[dict] | None, *keys: str, **wanted) -> list[list[dict]]:
    """Runs of the benchmark by these keys, each group of the newest code among it."""
    runs = [
        run | {"machine": machine(run), "dtype": run.get("dtype", "float32")}
        for run in chosen(rows, claim="inference", **wanted)
    ]
    return grouped(newest_code(runs, *keys), *keys)


def inference(rows: list[dict] | None = None, threads: int = 2, device: str = "cpu") -> Table:
    """Optimised nets beside all runtimes, dense and factored.

    Machines of one name differ in speed: figures of one row are of one run in turns, milliseconds
    of two rows need not be of one machine, so the day of the last run stands beside them.

    Parameters
    ----------
    rows : list of dict, optional
        Records of ``make bench-inference``; the committed ones by default. Of each case those of
        the newest code count.
    threads : int
        CPU threads.
    device : str
        "cpu" or "cuda".
    """
    on = {"device": device} | ({"threads": threads} if device == "cpu" else {})
    groups = _inference_runs(rows, "case", "dtype", **on)
    groups = [same for group in groups for same in grouped(group, "machine")]
    nets = list(dict.fromkeys(_of(group[-1]) for group in groups))
    groups.sort(key=lambda group: _place(group[-1], nets))
    lines = []
    for group in groups:
        last = group[-1]
        runtime = last["fastest"]["dense"]
        ms = last["latencies"][f"dense, {runtime}"]["median_ms"]
        dense = f"{milliseconds(ms)}, {runtime}"
        day = last["utc"][:10] + (f", {len(group)} runs" if len(group) > 1 else "")
        line = {"case": _case(last), "dense": dense, "day": day}
        if device == "cpu":
            line["machine"] = last.get("simd") or last["cpu"]  # the caption has their full names
        for key in ("speedup_of_peers", "share_of_bound"):
            line[key] = median(run[key] for run in group)
        lines.append(last | line | together(group, "speedup"))
    columns = {
        "case": ("net or layer, and input", "{}"),
        "dense": ("fastest dense (ms)", "{}"),
        "bound": ("fewer multiplies", BOUND),
        "speedup_of_peers": ("peers", times),
        "speedup": ("ours", times),
        "share_of_bound": ("share", "{:.0%}"),
        "day": ("recorded", "{}"),
    }
    caption = hardware([run for group in groups for run in group])
    return _of_machines(lines, columns, caption, BENCHMARK)


def _place(run: dict, nets: list[str]) -> tuple:
    """A net's rows stand together, among them those of like multiplies, then those of a case."""
    return nets.index(_of(run)), round(run["bound"], 2), run["case"]


def _of(run: dict) -> str:
    """ "CharNet" of "CharNet, 64 patches"."""
    return run["case"].partition(",")[0]


def _case(run: dict) -> str:
    told = run["case"].replace("240x320", "240×320").replace("ranks 32 and 96", "ranks 32, 96")
    return told if run["dtype"] == "float32" else f"{told}, {run['dtype']}"


def processors(rows: list[dict] | None = None) -> Table:
    """Optimised nets by processor, two threads.

    Parameters
    ----------
    rows : list of dict, optional
        Records of ``make bench-inference``; the committed ones by default. On each processor the
        newest code counts.
    """
    groups = _inference_runs(rows, "case", "machine", device="cpu", threads=2)
    groups = [group for group in groups if group[0]["case"] in TOLD]
    groups.sort(key=lambda group: (TOLD.index(group[0]["case"]), group[0]["machine"]))
    lines, told = [], None
    for group in groups:
        last = group[-1]
        line = {"code": last["commit"][:7], "runs": len(group)} | together(group, "speedup")
        line["speedup_of_peers"] = median(run["speedup_of_peers"] for run in group)
        lines.append(last | line | {"case": "" if last["case"] == told else _case(last)})
        told = last["case"]
    columns = {
        "case": ("net or layer, and input", "{}"),
        "machine": ("on", "{}"),
        "bound": ("fewer multiplies", BOUND),
        "speedup_of_peers": ("peers", times),
        "speedup": ("ours", times),
        "runs": ("runs", "{}"),
        "code": ("commit", "{}"),
    }
    caption = "Over the fastest dense net of all runtimes; median and range"
    return show(lines, columns, BENCHMARK, caption)
