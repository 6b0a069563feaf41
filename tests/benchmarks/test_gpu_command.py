"""`make gpu` where there is no GPU: it says so, ends well, and its steps exist and fit the time."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu  # noqa: E402


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which would be put to work")
def test_without_a_gpu_it_says_so_and_ends_well():
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "no CUDA device here" in done.stdout


def test_the_steps_fit_in_nine_minutes_and_name_files_that_exist():
    assert sum(limit for limit, _ in gpu.STEPS.values()) <= 540
    for _, command in gpu.STEPS.values():
        named = [part for part in command if "/" in part and not part.startswith("results/")]
        assert named and all((ROOT / part).exists() for part in named)
    assert set(gpu.SOLVED) <= set(gpu.TENSORS)
