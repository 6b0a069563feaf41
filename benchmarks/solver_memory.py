"""What `cpnb.cp_nls` needs beside its input on the largest kernel of the benchmark.

    python benchmarks/solver_memory.py        # prints one line of JSON and records nothing

The benchmark of the solvers (`bench_solver.py --part memory`) records what two such runs tell.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

from tensors import kernel_like

import cpnb


def memory() -> None:
    """Peak extra memory of 3×3×512×512 at R=512, in two processes of their own.

    malloc keeps most of what is freed, in pieces that the next large array may not fit in. Told to
    give each block of a megabyte back at once, its peak is what the solver had in use.
    """
    found = []
    for setting in ({}, {"MALLOC_MMAP_THRESHOLD_": "1000000"}):
        child = subprocess.run(
            [sys.executable, __file__], env=os.environ | setting, check=True, capture_output=True
        )
        found.append(json.loads(child.stdout))
    cpnb.record("solver-memory", **found[0], in_use_bytes=found[1]["extra_bytes"])


def peak() -> None:
    """Print what this process needed for the solver alone."""
    tensor = kernel_like(512, 512, 3, 3).float()
    cpnb.cp_nls(kernel_like(8, 8, 3, 3), 4, n_iter_max=2)  # loads the libraries
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    cp = cpnb.cp_nls(tensor, 512, n_iter_max=5)
    seconds = time.perf_counter() - began
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    held = 8 * (tensor.numel() + sum(u.numel() for u in cp.factors))
    row = {"shape": list(tensor.shape), "rank": 512, "extra_bytes": extra}
    print(json.dumps(row | {"tensor_and_factors_bytes": held, "seconds": seconds}))


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.parse_args(arguments)
    peak()


if __name__ == "__main__":
    main()
