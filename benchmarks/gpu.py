"""All that needs a GPU, in at most nine minutes: tests, solver, inference, notebook 05.

    make gpu                    # or: python benchmarks/gpu.py

Where there is no CUDA it says so and ends well. Each step has its share of the time and is stopped
at its end; what it recorded by then stays. The rows lie in results/local and are committed by
`python -m cpnb publish`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from tensors import TENSORS  # beside this file

import cpnb

ROOT = Path(__file__).resolve().parents[1]
INFERENCE = ["benchmarks/bench_inference.py", "--device", "cuda", "--only", "CharNet*", "AlexNet*"]
TESTS = [
    "tests/inference/test_gpu.py", "tests/inference/test_latency.py", "tests/cp/test_nls.py",
    "tests/layers/test_cp_layer.py", "tests/training/test_finetuning.py", "tests/data",
]  # fmt: skip
# Step to (seconds it may take, command), most wanted first; together below nine minutes.
STEPS = {
    "tests": (120, ["-m", "pytest", "-q", "-k", "cuda or CUDA or gpu or triton", *TESTS]),
    "inference, float32 and TF32": (130, [*INFERENCE, "--dtype", "float32", "--seconds", "0.2"]),
    "inference, float16": (80, [*INFERENCE, "--dtype", "float16", "--seconds", "0.2"]),
    "inference, bfloat16": (80, [*INFERENCE, "--dtype", "bfloat16", "--seconds", "0.2"]),
    "solver": (40, ["benchmarks/gpu.py", "solver"]),
    "notebook 05": (
        80,
        ["-m", "cpnb", "sweep", "notebooks/05_speedup.ipynb", "--out", "results/local/gpu"],
    ),
}
SOLVED = ("CharNet conv2", "CharNet conv3", "3×3×256×384")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("step", nargs="?", choices=["solver"], help="the solver's times alone")
    if parser.parse_args().step == "solver":
        return solver()
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing to do (torch.cuda.is_available() is False)")
        return 0
    print(torch.cuda.get_device_name(), flush=True)
    failed = []
    for name, (limit, command) in STEPS.items():
        start = time.monotonic()
        print(f"== {name}, at most {limit} s", flush=True)
        try:
            status = subprocess.run([sys.executable, *command], cwd=ROOT, timeout=limit).returncode
            told = "done" if status == 0 else f"failed with status {status}"
        except subprocess.TimeoutExpired:
            told = "stopped, its time is over; what it recorded stays"
        print(f"== {name}: {told}, {time.monotonic() - start:.0f} s", flush=True)
        if told.startswith("failed"):
            failed.append(name)
    print(f"records: {cpnb.results_path()}; commit them by: python -m cpnb publish")
    return 1 if failed else 0


def solver():
    """Seconds of the same solver on the CPU and the GPU, 50 steps from the same start."""
    for name in SOLVED:
        make, rank, _ = TENSORS[name]
        tensor = make(0)
        for device in ("cuda", "cpu"):
            seconds = []
            for _ in range(3 if device == "cuda" else 1):
                start = time.perf_counter()
                cp = cpnb.cp_nls(tensor.to(device), rank, n_iter_max=50, tol=0)
                seconds.append(time.perf_counter() - start)
            row = {"tensor": name, "rank": rank, "where": device, "seconds": sorted(seconds)}
            print(row | {"rel_error": cp.rel_error}, flush=True)
            cpnb.record("solver-gpu", **row, method="nls", rel_error=cp.rel_error, iterations=50)
    return 0


if __name__ == "__main__":
    sys.exit(main())
