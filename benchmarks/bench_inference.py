"""Inference side by side: dense, factored and optimised, in every runtime that is installed.

    make bench-inference ARGS="--quick"
    make bench-inference ARGS="--device cuda --dtype float16"

"Speed-up" is the time of the fastest dense contender of all runtimes over that of the optimised
net, in the same run. Factors are random: time does not depend on how good a fit is. Peers come
with the optional extra `bench`; without them the table has fewer rivals.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import fnmatch
import multiprocessing
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import runtimes
import torch
import torchvision
from torch import nn

import cpnb
from cpnb.layers.cp import CPConv2d
from cpnb.layers.svd import SVDLinear
from cpnb.study import figures

CHARNET = {"conv2": 64, "conv3": 64}
LOWER = {"conv2": 32, "conv3": 96}  # conv3 is the one that a low rank hurts (notebook 06)
CONV1 = 24  # fitted to its patches, it costs no accuracy (notebook 04's records)
WHOLE = {"ResNet-18": 3.0, "VGG-16-BN": 4.0, "ResNet-56": 3.3}  # fewer multiplies in a 3x3 layer
LINEAR = {"classifier.0": 512, "classifier.3": 512}  # singular values of VGG's widest layers
QUICK = ["CharNet, 64 patches", "CharNet, 240x320", "AlexNet conv2, R=200, batch 1"]


def factored(net: nn.Module, ranks: dict) -> nn.Module:
    """The net with random factors in place of some convolutions, of their scale."""
    net = copy.deepcopy(net)
    for name, rank in ranks.items():
        conv = net.get_submodule(name)
        layer = _with_random_factors(conv, rank)
        parent, _, child = name.rpartition(".")
        setattr(net.get_submodule(parent), child, layer)
    return net.eval()


def _with_random_factors(layer: nn.Module, rank: int) -> nn.Module:
    small = (SVDLinear if isinstance(layer, nn.Linear) else CPConv2d)(layer, rank)
    if layer.bias is not None:
        (small.last if isinstance(layer, nn.Linear) else small.expand).bias.data.copy_(layer.bias)
    return small


def ranks_for(net: nn.Module, rate: float) -> dict:
    """Of every 3x3 layer but the first, for so many times fewer multiplies at stride 1."""
    ranks = {}
    for name, conv in net.named_modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3) and conv.in_channels > 3:
            ends = conv.in_channels + conv.out_channels
            ranks[name] = int(conv.weight.numel() / (rate * (ends + 6)))
    return ranks


def networks() -> dict:
    """Whole networks with random weights, as `cases`."""
    made = {}
    for name, net, shapes in (
        ("ResNet-18", torchvision.models.resnet18(), [(1, 3, 224, 224), (8, 3, 224, 224)]),
        ("VGG-16-BN", torchvision.models.vgg16_bn(), [(1, 3, 224, 224)]),
        ("ResNet-56", cpnb.CifarResNet(56), [(64, 3, 32, 32)]),
    ):
        ranks = ranks_for(net, WHOLE[name])
        for n, *_, size in shapes:
            label = f"{name}, {size}x{size}, batch {n}"
            made[label] = net.eval(), ranks, torch.randn(n, 3, size, size)
            if name == "VGG-16-BN":
                made[f"{label}, linear too"] = net, ranks | LINEAR, made[label][2]
    return made


def cases() -> dict:
    """Name to (dense net, ranks, example)."""
    net = cpnb.load_charnet()
    both = CHARNET | {"conv1": CONV1}
    made = {}
    for label, shape in {
        **{f"{n} patch{'es' if n > 1 else ''}": (n, 1, 24, 24) for n in (1, 64, 256)},
        "240x320": (1, 1, 240, 320),
    }.items():
        made[f"CharNet, {label}"] = net, CHARNET, torch.randn(shape)
        made[f"CharNet, {label}, conv1 too"] = net, both, torch.randn(shape)
    for label in ("64 patches", "240x320"):
        example, name = made[f"CharNet, {label}"][2], f"CharNet, {label}, ranks 32 and 96"
        made[name] = net, LOWER, example
        made[f"{name}, conv1 too"] = net, LOWER | {"conv1": CONV1}, example
    for i, name in enumerate(sorted(both), start=1):
        layer = nn.Sequential(getattr(net, f"conv{i}"), getattr(net, f"maxout{i}"))
        channels, cut = layer[0].in_channels, [0, 8, 16][i - 1]
        for label, n, high, wide in (("64 patches", 64, 24, 24), ("240x320", 1, 240, 320)):
            example = torch.randn(n, channels, high - cut, wide - cut)
            made[f"{name}, {label}"] = layer, {"0": both[name]}, example
    for rank in (140, 200, 300):
        for groups, which in ((1, ""), (2, " both groups")):
            for n in (1, 32):
                layer = nn.Conv2d(48 * groups, 128 * groups, 5, padding=2, groups=groups)
                name = f"AlexNet conv2{which}, R={rank}, batch {n}"
                example = torch.randn(n, 48 * groups, 27, 27)
                made[name] = nn.Sequential(layer, nn.ReLU()), {"0": rank}, example
    for n in (1, 32):
        layer = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU())
        made[f"VGG 3x3x256x256, R=256, batch {n}"] = layer, {"0": 256}, torch.randn(n, 256, 56, 56)
    return made | networks()


def bench(name: str, dense: nn.Module, ranks: dict, example, threads: int, arguments) -> dict:
    """One row: all contenders in turns, the ratio of multiplies and the share of it."""
    torch.set_num_threads(threads)
    small = factored(dense, ranks)
    to = {"device": arguments.device, "dtype": getattr(torch, arguments.dtype)}
    # Copied first: cases share their nets.
    dense, small, example = copy.deepcopy(dense).to(**to), small.to(**to), example.to(**to)
    functions = {}
    for kind, model in (("dense", dense), ("factored", small)):
        made = runtimes.contenders(model, example, threads, arguments.compile)
        functions |= {(kind, runtime): function for runtime, function in made.items()}
    native = example.clone(memory_format=torch.channels_last)  # every contender in its own layout
    start = time.perf_counter()
    fast = cpnb.optimize_for_inference(small, native)
    optimising = time.perf_counter() - start
    functions["optimised", "cpnb"] = runtimes.finishing(lambda: fast(native), native)
    if fast.report.choice in ("ONNX Runtime", "OpenVINO"):  # ours beside what won over it
        ours = copy.deepcopy(fast)  # a copy runs layer by layer
        functions["layers", "cpnb"] = lambda: ours(native)
    if example.is_cuda:
        functions["optimised", "cpnb, CUDA graph"] = runtimes.graphed(fast, example)
    times = runtimes.time_in_turns(functions, arguments.seconds)
    found = {key: runtimes.summary(values) for key, values in times.items()}
    best = {
        kind: min((key for key in found if key[0] == kind), key=lambda k: found[k]["median_ms"])
        for kind in ("dense", "factored", "optimised")
    }
    ms = {kind: found[key]["median_ms"] for kind, key in best.items()}
    bound = cpnb.count_multiplies(dense, example) / cpnb.count_multiplies(small, example)
    return {
        "case": name,
        "device": arguments.device,
        "dtype": arguments.dtype,
        "tf32": example.is_cuda and torch.backends.cudnn.conv.fp32_precision == "tf32",
        "input": list(example.shape),
        "ranks": ranks,
        "threads": threads,
        "bound": bound,
        "speedup": ms["dense"] / ms["optimised"],
        "share_of_bound": ms["dense"] / ms["optimised"] / bound,
        "speedup_of_peers": ms["dense"] / ms["factored"],
        "fastest": {kind: runtime for kind, (_, runtime) in best.items()},
        "latencies": {f"{kind}, {runtime}": value for (kind, runtime), value in found.items()},
        "whole_network": fast.report.choice,
        "optimize_seconds": optimising,  # with the kernel's compilation, where it is not built yet
        "chosen": {" + ".join(c.names): c.path for c in fast.report.choices},
        "peers": runtimes.versions(),
    }


def peak_memory(kind: str, results) -> None:
    """MiB that one pass over the 240x320 image adds to the process, in a process of its own."""
    torch.set_num_threads(1)
    dense, ranks, example = cases()["CharNet, 240x320"]
    net = factored(dense, ranks) if kind != "dense" else dense.eval()
    if kind == "optimised":  # on a small image, so that measuring leaves no peak
        net = cpnb.optimize_for_inference(net, torch.randn(1, 1, 40, 40))
    with torch.inference_mode():
        net(torch.randn(1, 1, 40, 40))
        # Freed pages that the allocator keeps would be used again, and not be counted.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = resident("VmRSS")
        net(example)
    results.put((kind, (resident("VmHWM") - before) / 1024))


def resident(field: str) -> int:
    """KiB of memory of this process: VmRSS for now, VmHWM at its peak (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def memory_table() -> dict:
    """Peak memory of the dense, factored and optimised net on the large image, in MiB."""
    context = multiprocessing.get_context("spawn")
    results, found = context.Queue(), {}
    for kind in ("dense", "factored", "optimised"):
        process = context.Process(target=peak_memory, args=(kind, results))
        process.start()
        name, value = results.get(timeout=120)
        process.join()
        found[name] = value
    return found


def table(rows: list[dict]) -> str:
    """The rows as text."""
    head = ["case", "threads", "dense (ms)", "by", "factored (ms)", "by", "ours (ms)", "IQR"]
    head += ["peers", "ours", "ratio", "share"]
    lines = [head]
    for r in rows:
        by, latency = r["fastest"], r["latencies"]
        dense, plain, ours = (latency[f"{kind}, {by[kind]}"] for kind in by)
        lines.append(
            [
                *(r["case"], str(r["threads"]), f"{dense['median_ms']:.3g}", by["dense"]),
                *(f"{plain['median_ms']:.3g}", by["factored"]),
                *(f"{ours['median_ms']:.3g}", f"{ours['iqr_ms']:.2g}"),
                *(f"{r['speedup_of_peers']:.1f}x", f"{r['speedup']:.1f}x"),
                *(f"{r['bound']:.2f}x", f"{r['share_of_bound']:.0%}"),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def draw(rows: list[dict], path: Path) -> None:
    """Speed-up of the best peer and of ours, and the ratio of multiplies, a case a line."""
    figures.use_style()
    fig, ax = plt.subplots(figsize=(9, 1.2 + 0.42 * len(rows)))
    y = np.arange(len(rows))[::-1]
    ax.barh(y + 0.2, [r["speedup_of_peers"] for r in rows], 0.38, color=figures.ORANGE,
            label="factored, fastest of the other runtimes")  # fmt: skip
    bars = ax.barh(y - 0.2, [r["speedup"] for r in rows], 0.38, color=figures.BLUE,
                   label="factored, optimised by cpnb")  # fmt: skip
    ax.bar_label(bars, [f"{r['share_of_bound']:.0%} of bound" for r in rows],
                 label_type="center", color="white", fontsize=8)  # fmt: skip
    ax.plot([r["bound"] for r in rows], y, "d", color=figures.BLACK, label="ratio of multiplies")
    labels = [f"{r['case']}, {r['threads']} thread{'s' * (r['threads'] > 1)}" for r in rows]
    ax.set_yticks(y, labels, fontsize=9)
    ax.set(xscale="log", xlabel="speed-up over the fastest dense net of all runtimes (×, log)")
    ticks = [1, 2, 3, 5, 10, 20, 40]
    ax.set_xticks(ticks, [f"{t}×" for t in ticks])
    ax.minorticks_off()
    ax.margins(y=0.4 / len(rows))
    fig.legend(loc="outside upper center", ncols=3, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three cases in under two minutes")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="names of cases; * is allowed")
    parser.add_argument("--threads", nargs="+", type=int, help="by default 1 and 2; on a GPU 1")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--seconds", type=float, default=0.5, help="a contender and case")
    parser.add_argument("--no-compile", dest="compile", action="store_false",
                        help="without torch.compile, which takes most of the time")  # fmt: skip
    parser.add_argument("--figure", type=Path, default=cpnb.results_folder() / "inference.svg")
    arguments = parser.parse_args(argv)
    on_cpu = arguments.device == "cpu"
    arguments.threads = arguments.threads or ([1, 2] if on_cpu else [1])
    if not on_cpu and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU that PyTorch can use")
    if on_cpu and arguments.dtype != "float32":
        parser.error(f"--dtype {arguments.dtype}: on the CPU the runtimes are compared in float32")
    made = cases()
    patterns = arguments.only or (QUICK if arguments.quick else ["*"])
    chosen = [name for name in made if any(fnmatch.fnmatch(name, p) for p in patterns)]
    if not chosen:
        parser.error(f"--only: no case is named {patterns}; there are {', '.join(made)}")
    if arguments.quick:
        arguments.compile, arguments.threads = False, arguments.threads[-1:]
    rows = []
    with torch.inference_mode():
        for threads in arguments.threads:
            for name in chosen:
                print(f"{name}, {threads} threads", file=sys.stderr, flush=True)
                row = bench(name, *made[name], threads, arguments)
                cpnb.record("inference", benchmark="bench_inference", **row)
                rows.append(row)
    print(table(rows))
    slowest = max(rows, key=lambda row: row["optimize_seconds"])
    print(f"optimize_for_inference: {slowest['optimize_seconds']:.1f} s at most, {slowest['case']}")
    draw(rows, arguments.figure)
    if on_cpu and "CharNet, 240x320" in chosen and sys.platform == "linux":
        memory = memory_table()
        cpnb.record("inference-memory", benchmark="bench_inference", input=[1, 1, 240, 320],
                    threads=1, peak_mib=memory)  # fmt: skip
        print("peak memory, 240x320:", ", ".join(f"{k} {v:.0f} MiB" for k, v in memory.items()))
    print(f"figure: {arguments.figure}\nrecords: {cpnb.results_path()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
