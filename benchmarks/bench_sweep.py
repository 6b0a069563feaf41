"""What a sweep costs beside bare papermill, and how it goes side by side, again, and on Dask.

    .venv/bin/python benchmarks/bench_sweep.py            # all parts, about half an hour
    .venv/bin/python benchmarks/bench_sweep.py look table  # some of them
    CPNB_DATA=... .venv/bin/python benchmarks/bench_sweep.py imagenet

Each part prints its figures beside the goal and records them. The notebook is trivial: one cell of
parameters, one that prints.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

import cpnb
from cpnb.runs.pool import cores

BARE = """
import sys, papermill
papermill.execute_notebook(sys.argv[1], sys.argv[2], parameters={"rank": int(sys.argv[3])},
                           progress_bar=False, kernel_name="python3",
                           language="python")
"""
SWEEP = [sys.executable, "-m", "cpnb", "sweep"]


def timed(line, **options) -> float:
    """Seconds of a command that has to succeed."""
    start = time.perf_counter()
    subprocess.run([*map(str, line)], check=True, capture_output=True, **options)
    return time.perf_counter() - start


def spread(values: list[float]) -> dict:
    """Median and quartiles, in seconds."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "low": low, "high": high, "runs": len(values)}


def keep(part: str, goal: str, **figures) -> None:
    """Print the figures of a part beside its goal, and record them."""
    print(f"{part}: {json.dumps(figures)}  (goal: {goal})", flush=True)
    cpnb.record("sweep-cost", part=part, goal=goal, usable_cores=cores(), **figures)


def trivial(folder: Path) -> Path:
    """The notebook."""
    tagged = new_code_cell("rank = 0", metadata={"tags": ["parameters"]})
    path = folder / "trivial.ipynb"
    nbformat.write(new_notebook(cells=[tagged, new_code_cell("print(rank)")]), path)
    return path


def bare(path: Path, folder: Path, count: int) -> None:
    """One run after the other: papermill's API in a process of its own, and a point of a sweep."""
    ours, theirs = [], []
    for rank in range(1, count + 1):  # in turns, so that both meet the same machine
        theirs.append(timed([sys.executable, "-c", BARE, path, folder / f"{rank}.ipynb", rank]))
        ours.append(timed([*SWEEP, path, "-p", "rank", rank, "--out", folder / "one"]))
    ratio = statistics.median(ours) / statistics.median(theirs)
    keep("one run", "at most 5% + 0.3 s over papermill", sweep=spread(ours),
         papermill=spread(theirs), ratio=ratio)  # fmt: skip


def side(path: Path, folder: Path, count: int) -> None:
    """Many points, two side by side, against one alone."""
    alone = [timed([*SWEEP, path, "-p", "rank", n, "--out", folder / "alone"]) for n in range(1, 6)]
    both = timed([*SWEEP, path, "--grid", f"rank=1-{count}", "--jobs", 2, "--out", folder / "two"])
    ideal = count * statistics.median(alone) / 2
    keep("two side by side", "at most 1.2", seconds=both, points=count, one=spread(alone),
         ratio=both / ideal)  # fmt: skip


def look(path: Path, folder: Path, count: int) -> None:
    """Points that have finished, looked over again."""
    words = [path, "--grid", f"rank=1-{count}", "--jobs", 2, "--out", folder / "two"]
    timed([*SWEEP, *words])
    shell = [timed([*SWEEP, *words]) for _ in range(5)]
    inside = []
    for _ in range(5):
        start = time.perf_counter()
        grid = {"rank": list(range(1, count + 1))}
        runs = cpnb.runs.sweep.run_grid(path, grid, folder / "two", progress=False)
        inside.append(time.perf_counter() - start)
        assert all(run.skipped for run in runs)
    keep("finished before", "0.5 s in the process, 3 s from the shell", points=count,
         shell=spread(shell), process=spread(inside))  # fmt: skip


def door(path: Path, folder: Path, count: int) -> None:
    """The first word of the command line."""
    helped = [timed([*SWEEP, "--help"]) for _ in range(10)]
    wrong = []
    for _ in range(10):
        start = time.perf_counter()
        run = subprocess.run([*SWEEP, path, "-p", "rnak", "3"], capture_output=True, check=False)
        wrong.append(time.perf_counter() - start)
        assert run.returncode == 2
    keep("first word", "1 s", help=spread(helped), wrong_name=spread(wrong))


@contextmanager
def cluster(folder: Path):
    """A scheduler and two workers of one thread, processes of their own; yields the address."""
    import distributed

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=folder
    ) as made:
        yield made.scheduler_address


def dask(path: Path, folder: Path, count: int) -> None:
    """The same grid by two jobs here, and by two workers of Dask."""
    words = [path, "--grid", f"rank=1-{count}"]
    here, there = [], []
    with cluster(folder) as address:
        for n in range(3):
            here.append(timed([*SWEEP, *words, "--jobs", 2, "--out", folder / f"here{n}"]))
            out = folder / f"there{n}"
            there.append(timed([*SWEEP, *words, "--scheduler", address, "--out", out]))
    ratio = statistics.median(there) / statistics.median(here)
    keep("Dask with two workers", "at most 1.15", points=count, jobs=spread(here),
         workers=spread(there), ratio=ratio)  # fmt: skip


def starts(path: Path, folder: Path, count: int) -> None:
    """Many kernels by eight processes at once: ports collide now and then."""
    words = [path, "--grid", f"rank=1-{count}", "--jobs", 8, "--out", folder / "eight"]
    seconds = timed([*SWEEP, *words])
    states = cpnb.records.load(folder / "eight")["state"]
    keep("kernel starts by eight processes", "0 points lost", points=count, seconds=seconds,
         lost=int((states != "finished").sum()))  # fmt: skip


def table(path: Path, folder: Path, count: int) -> None:
    """Records of very many points, loaded and drawn as a figure of two parameters."""
    import matplotlib

    matplotlib.use("Agg")
    from cpnb.study import figures

    row = cpnb.runs.records.environment() | {"claim": "point", "accuracy": 0.9, "speedup": 5.0}
    many = 100_000
    with open(folder / "records.jsonl", "w") as records, open(folder / "runs.jsonl", "w") as runs:
        for n in range(many):
            name = {"output": f"n__rank={n}.ipynb", "run": str(n)}
            given = {"parameters": {"rank": n % 300, "lr": n // 300, "method": "nls", "seed": 0}}
            records.write(json.dumps(row | name | given | {"accuracy": n / many}) + "\n")
            runs.write(json.dumps(name | given | {"state": "planned"}) + "\n")
            runs.write(json.dumps(name | {"state": "finished", "seconds": 2.0}) + "\n")
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        figures.over_two(cpnb.records.load(folder), "rank", "lr", "accuracy")
        seconds.append(time.perf_counter() - start)
    keep("records loaded and drawn", "5 s", rows=many, seconds=spread(seconds))


def imagenet(path: Path, folder: Path, count: int) -> None:
    """Images a second that are decoded, and that AlexNet is trained on; needs CPNB_DATA."""
    import torch

    test = cpnb.load_dataset("imagenet-sample", "test", size=count)
    start = time.perf_counter()
    images = torch.stack([test[n][0] for n in range(len(test))])
    decoded = len(test) / (time.perf_counter() - start)
    labels = torch.tensor([test[n][1] for n in range(len(test))])
    net, layer = cpnb.AlexNet(), "conv2"
    small = cpnb.decompose(net, {layer: 200}, n_iter_max=1)
    data = torch.utils.data.TensorDataset(images.repeat(1, 1, 2, 2)[..., :227, :227], labels)
    (row,) = cpnb.finetune(small, data, 1, batch_size=64, channels_last=True, progress=False)
    keep("AlexNet on ImageNet's images", "none: for the plan on paper", images=len(test),
         decoded_a_second=decoded, trained_a_second=len(test) / row["seconds"],
         threads=torch.get_num_threads())  # fmt: skip


PARTS = {f.__name__: f for f in (door, bare, side, look, dask, table, imagenet, starts)}
COUNTS = {"bare": 20, "side": 100, "look": 100, "dask": 20, "imagenet": 256, "starts": 1000}


def main() -> None:
    """Measure the parts that are asked for."""
    parser = argparse.ArgumentParser(description="What a sweep costs, part by part.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--count", type=int, help="runs or points of a part, in place of its own")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    import cpnb.runs.sweep  # noqa: F401 (which `look` calls)

    for name in options.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            count = options.count or COUNTS.get(name, 1)
            PARTS[name](trivial(Path(folder)), Path(folder), count)


if __name__ == "__main__":
    main()
