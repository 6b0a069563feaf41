"""CP solvers side by side: error against seconds on the tensors this package is for.

    make bench-solver                 # everything; hours with all peers, resumed if interrupted
    make bench-solver ARGS=--quick    # two minutes

Every contender gets the same tensor in float64, the same number of threads, and the same start
where it accepts one. Ours runs for the seconds listed with the tensor, a peer for ten times as
long. Each run is a row of the records, written when it ends; rows that are there are not run again.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from functools import partial
from pathlib import Path

import torch

import cpnb
from cpnb.cp.algebra import normalise
from cpnb.cp.starts import INITS, start

sys.path.insert(0, str(Path(__file__).resolve().parent))
import peers  # noqa: E402
import solver_report  # noqa: E402
from solver_memory import memory  # noqa: E402
from tensors import QUICK, TENSORS, charnet, collinear, kernel_like  # noqa: E402

PEER_TIME = 10  # how much longer a peer may take
STARTED = {  # seconds for each kind of start
    "CharNet conv1": 0.5, "CharNet conv2": 1.0, "CharNet conv3": 2.0,
    "small AlexNet conv2, R=200": 2.0, "3×3×256×384": 2.0,
}  # fmt: skip
SLOW = ("pygenten", "TensorFox")  # far behind: on large tensors one seed shows it


def tensorly_svd(tensor, rank, start, seed, limit):
    """TensorLy as its users start it, for the time it takes to 400 iterations."""
    return peers.tensorly(tensor, rank, start, seed, limit, init="svd", n_iter_max=400)


def one_run(name: str, solver: str, run, seed: int, tensor, rank: int, limit: float) -> dict:
    first = start(tensor, rank, "svd", seed)
    trace = run(tensor, rank, first, seed, limit)
    # Forty points of the trace, evenly on a logarithmic scale, draw the figure as well.
    last = len(trace.seconds) - 1
    keep = sorted({min(last, round(last ** (k / 40))) for k in range(41)} | {0, last})
    return cpnb.record(
        "solver-benchmark", tensor=name, shape=list(tensor.shape), rank=rank, method=solver,
        seed=seed, limit_seconds=limit, rel_error=trace.final, degeneracy=trace.degeneracy,
        iterations=trace.iterations,
        trace=[[round(trace.seconds[i], 4), float(f"{trace.rel_error[i]:.7g}")] for i in keep],
        peers=peers.versions(),
    )  # fmt: skip


def contenders(name: str, ours_only: bool, quick: bool) -> dict:
    """Solver by name, with the factor on its time."""
    found = peers.installed()
    runs = {k: (v, 1 if k.startswith("cpnb") else PEER_TIME) for k, v in found.items()}
    if name in ("CharNet conv2", "CharNet conv3") and "TensorLy" in runs and not quick:
        runs["TensorLy, svd, 400 iterations"] = (tensorly_svd, math.inf)
    return {k: v for k, v in runs.items() if not ours_only or k.startswith("cpnb, ")}


def compare(tensors: dict, seeds: range, ours_only: bool, quick: bool) -> None:
    """Run what is not on record yet."""
    done = {(r["tensor"], r["method"], r["seed"]) for r in on_record("solver-benchmark")}
    for name, seconds in tensors.items():
        make, rank, _ = TENSORS[name]
        for seed in seeds:
            tensor, _ = normalise(make(seed))
            for solver, (run, factor) in contenders(name, ours_only, quick).items():
                skipped = solver in SLOW and seed > 0 and seconds >= 1
                if skipped or (name, solver, seed) in done:
                    continue
                row = one_run(name, solver, run, seed, tensor, rank, factor * seconds)
                print(f"{name:32s} {solver:30s} seed {seed}: {row['rel_error']:.5f}", flush=True)


def on_record(claim: str) -> list[dict]:
    """Rows of this machine: an interrupted benchmark goes on after them."""
    return cpnb.recorded(cpnb.results_path(), claim=claim)


def recovery(seeds: range) -> None:
    """How often the exact rank-16 tensor is found to 1e-8."""
    done = {(r["method"], r["seed"]) for r in on_record("solver-recovery")}
    for seed in seeds:
        tensor, _ = normalise(collinear(seed))
        for solver, run in peers.installed().items():
            if solver == "TensorFox" and seed >= 10 or (solver, seed) in done:
                continue  # ten seconds a run
            first = start(tensor, 16, "random", seed)
            run = partial(run, tol=1e-13) if solver.startswith("cpnb, ") else run
            trace = run(tensor, 16, first, seed, 1.0)
            cpnb.record(
                "solver-recovery", method=solver, seed=seed, rel_error=trace.final,
                seconds=trace.seconds[-1],
            )  # fmt: skip


def cost(seeds: range) -> None:
    """Seconds of 200 steps, plain and stable in turns."""
    for layer in ("conv2", "conv3"):
        tensor, _ = normalise(charnet(layer))
        for seed in seeds:
            for method, bound in ((solver_report.PLAIN, None), (solver_report.STABLE, 10.0)):
                cp = cpnb.cp_nls(tensor, 64, tol=0.0, max_degeneracy=bound, random_state=seed)
                cpnb.record(
                    "solver-cost", layer=layer, method=method, seed=seed, steps=len(cp.history),
                    seconds=cp.history[-1].seconds, rel_error=cp.rel_error,
                    degeneracy=cp.degeneracy,
                )  # fmt: skip


def starts(seeds: range) -> None:
    """Where each kind of start leads in the same time, bounded; its own cost counts."""
    for name, limit in STARTED.items():
        make, rank, _ = TENSORS[name]
        tensor, layer = normalise(make(0))[0], name.removeprefix("CharNet ")
        for seed in seeds:
            for init in INITS:
                cp = cpnb.cp_nls(
                    tensor, rank, init, n_iter_max=10_000, tol=0.0, random_state=seed,
                    callback=lambda row, limit=limit: row.seconds > limit,
                )  # fmt: skip
                cpnb.record(
                    "solver-starts", layer=layer, rank=rank, init=init, seed=seed,
                    limit_seconds=limit, rel_error=cp.rel_error,
                )  # fmt: skip


def scaling(ranks, sizes) -> None:
    """Seconds a step as R doubles, and as S and T do."""
    cases = [(128, 128, rank) for rank in ranks] + [(size, size, 64) for size in sizes]
    for s, t, rank in cases:
        tensor, _ = normalise(kernel_like(t, s, 3, 3))
        cp = cpnb.cp_nls(tensor, rank, n_iter_max=12, tol=0.0)
        steps = [b.seconds - a.seconds for a, b in zip(cp.history, cp.history[1:], strict=False)]
        cg = [row.cg_iterations for row in cp.history[1:]]
        cpnb.record(
            "solver-scaling", shape=list(tensor.shape), rank=rank,
            seconds_step=float(torch.tensor(steps).median()), cg_iterations=sum(cg) / len(cg),
        )  # fmt: skip


def gpu() -> None:
    """Seconds a step on the CPU and on the GPU; 32 starts as one batch."""
    cases = [
        ("CharNet conv2", charnet("conv2"), 64, 1),
        ("CharNet conv3", charnet("conv3"), 64, 1),
        ("3×3×512×512", kernel_like(512, 512, 3, 3), 512, 1),
        ("CharNet conv2, 32 starts", charnet("conv2"), 64, 32),
    ]
    for name, tensor, rank, n_starts in cases:
        for device in ("cpu", "cuda"):
            cp = cpnb.cp_nls(tensor.to(device), rank, n_iter_max=12, tol=0.0, n_starts=n_starts)
            steps = [
                b.seconds - a.seconds for a, b in zip(cp.history, cp.history[1:], strict=False)
            ]
            cpnb.record(
                "solver-gpu", tensor=name, rank=rank, n_starts=n_starts, device=device,
                seconds_step=float(torch.tensor(steps).median()), rel_error=cp.rel_error,
            )  # fmt: skip


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few tensors, two minutes")
    parser.add_argument("--ours", action="store_true", help="without the peers")
    parser.add_argument("--tensor", action="append", choices=TENSORS, help="only these")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--part", choices=["compare", "cost", "starts", "recovery", "scaling", "memory", "gpu"]
    )
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    names = given.tensor or list(QUICK if given.quick else TENSORS)
    tensors = {n: QUICK[n] if given.quick else TENSORS[n][2] for n in names}
    seeds = range(given.first_seed, given.first_seed + (1 if given.quick else given.seeds))

    def wanted(part):
        return given.part == part or given.part is None and not given.tensor

    if wanted("memory") and not given.quick:
        memory()
    if given.part in (None, "compare"):
        compare(tensors, seeds, given.ours, given.quick)
    if wanted("cost") and not given.quick:
        cost(seeds)
    if wanted("starts") and not given.quick:
        starts(seeds)
    if wanted("recovery"):
        recovery(range(1 if given.quick else 40))
    if wanted("scaling") and not given.quick:
        scaling([32, 64, 128, 256, 512], [64, 128, 256, 512])
    if torch.cuda.is_available() and wanted("gpu"):
        gpu()
    solver_report.show(cpnb.results_path())


if __name__ == "__main__":
    main()
