"""The benchmark of inference: its rows, its table and its figure, on one tiny case."""

import argparse
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import cpnb
from cpnb.nets.charnet import Maxout

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import bench_inference  # noqa: E402
import runtimes  # noqa: E402


@pytest.fixture(scope="module")
def row():
    arguments = argparse.Namespace(compile=False, seconds=0.01, device="cpu", dtype="float32")
    dense = nn.Sequential(nn.Conv2d(8, 16, 5, padding=2), Maxout(2))
    with torch.inference_mode():
        return bench_inference.bench(
            "tiny", dense, {"0": 4}, torch.randn(1, 8, 12, 12), 1, arguments
        )


def test_a_row_compares_with_the_fastest_dense_contender(row):
    ms = {name: value["median_ms"] for name, value in row["latencies"].items()}
    dense = min(value for name, value in ms.items() if name.startswith("dense, "))
    assert {"dense, eager NCHW", "dense, eager, FFT", "factored, channels_last"} < set(ms)
    assert row["speedup"] == pytest.approx(dense / ms["optimised, cpnb"])
    # Multiplies a position: S T d² over R (S + 2 d + T), 12 by 12 positions before and after.
    assert row["bound"] == pytest.approx(8 * 16 * 25 / (4 * (8 + 2 * 5 + 16)))
    assert row["share_of_bound"] == pytest.approx(row["speedup"] / row["bound"])


def test_the_row_can_be_recorded_tabled_and_drawn(row, tmp_path):
    cpnb.record("inference", benchmark="bench_inference", **row)
    text = bench_inference.table([row])
    assert "tiny" in text and f"{row['speedup']:.1f}x" in text
    bench_inference.draw([row], tmp_path / "new" / "figure.svg")
    assert (tmp_path / "new" / "figure.svg").stat().st_size > 1000


def test_dense_by_fft_is_the_same_convolution():
    layer = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.ReLU()).eval()
    x = torch.randn(2, 3, 9, 11)
    with torch.inference_mode():
        torch.testing.assert_close(runtimes._fft(layer, x)(), layer(x), rtol=1e-4, atol=1e-5)


def test_factored_nets_of_the_cases_have_the_shapes_of_the_dense_ones():
    cases = bench_inference.cases()
    assert set(bench_inference.QUICK) <= set(cases)
    dense, ranks, example = cases["CharNet, 1 patch, conv1 too"]
    with torch.inference_mode():
        assert bench_inference.factored(dense, ranks)(example).shape == dense(example).shape


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(capsys):
    with pytest.raises(SystemExit):
        bench_inference.main(["--device", "cuda"])
    assert "there is no GPU" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_row_of_a_gpu(dtype):
    arguments = argparse.Namespace(compile=False, seconds=0.01, device="cuda", dtype=dtype)
    dense = nn.Sequential(nn.Conv2d(8, 16, 5, padding=2), Maxout(2))
    with torch.inference_mode():
        row = bench_inference.bench(
            "tiny", dense, {"0": 4}, torch.randn(1, 8, 12, 12), 1, arguments
        )
    assert row["device"] == "cuda" and row["dtype"] == dtype
    assert {"dense, CUDA graph", "optimised, cpnb, CUDA graph"} <= set(row["latencies"])


def test_an_unknown_case_is_told(capsys):
    with pytest.raises(SystemExit):
        bench_inference.main(["--only", "nope"])
    assert "no case is named" in capsys.readouterr().err
