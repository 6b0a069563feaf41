"""Multiplies are counted exactly; measuring leaves model and settings as they were."""

import pytest
import torch
from torch import nn

from cpnb.inference.counts import count_multiplies, multiplies_per_layer
from cpnb.inference.latency import (
    Latency,
    fastest_dense,
    measure_fastest,
    measure_interleaved,
    measure_latency,
    speedup,
)

QUICK = {"runs": 3, "warmup": 1}


@pytest.mark.parametrize(
    ("layer", "shape", "multiplies"),
    [
        (nn.Conv2d(3, 8, 5), (2, 3, 12, 10), 3 * 25 * 8 * 8 * 6),
        (nn.Conv2d(3, 8, (3, 5), stride=(2, 1)), (2, 3, 11, 10), 3 * 15 * 8 * 5 * 6),
        (nn.Conv2d(4, 8, 3, padding=1, groups=2), (2, 4, 6, 6), 2 * 9 * 8 * 36),
        (nn.Conv2d(6, 6, (9, 1), groups=6), (2, 6, 16, 16), 9 * 6 * 8 * 16),
        (nn.Conv2d(2, 4, 3, dilation=3), (2, 2, 9, 9), 2 * 9 * 4 * 9),
        (nn.Conv1d(2, 4, 3), (2, 2, 9), 2 * 3 * 4 * 7),
        (nn.Conv3d(2, 4, 3), (2, 2, 5, 5, 5), 2 * 27 * 4 * 27),
        (nn.ConvTranspose2d(3, 8, 4, stride=2), (2, 3, 5, 5), 3 * 25 * 8 * 16),
        (nn.Linear(7, 5), (2, 7), 35),
        (nn.Linear(7, 5, bias=False), (2, 4, 7), 4 * 35),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), (2, 3, 4, 4), 0),
    ],
    ids=str,
)
def test_multiplies_of_one_sample(layer, shape, multiplies):
    assert count_multiplies(layer, torch.randn(shape)) == multiplies


def test_multiplies_of_the_papers_stack_for_conv2():
    # 1x1 (48 -> R), 9x1 and 1x9 depthwise, 1x1 (R -> 128) on 16x16 maps: the bound 22.4 at R = 64.
    stack = nn.Sequential(
        nn.Conv2d(48, 64, 1),
        nn.Conv2d(64, 64, (9, 1), groups=64),
        nn.Conv2d(64, 64, (1, 9), groups=64),
        nn.Conv2d(64, 128, 1),
    )
    assert multiplies_per_layer(stack, torch.randn(1, 48, 16, 16)) == {
        "0": 48 * 64 * 256,
        "1": 64 * 9 * 8 * 16,
        "2": 64 * 9 * 8 * 8,
        "3": 64 * 128 * 64,
    }


def test_a_layer_that_runs_twice_counts_twice_and_hooks_are_gone():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    assert count_multiplies(model, torch.randn(1, 3)) == 18
    assert not shared._forward_hooks
    assert model.training


class _Spy(nn.Module):
    """Notes how it is run."""

    def __init__(self, log, name):
        super().__init__()
        self.log, self.name = log, name

    def forward(self, x):
        state = (self.training, torch.is_inference_mode_enabled(), torch.get_num_threads())
        self.log.append((self.name, *state))
        return x


def test_models_run_in_turns_in_inference_mode_and_all_is_restored():
    log, threads, example = [], torch.get_num_threads(), torch.randn(1, 1)
    spies = {name: _Spy(log, name).train() for name in "ab"}
    measured = measure_interleaved(
        {name: (spy, example) for name, spy in spies.items()}, runs=3, warmup=2, threads=1
    )
    assert [entry[0] for entry in log] == ["a", "b"] * 5
    assert {entry[1:] for entry in log} == {(False, True, 1)}
    assert {latency.runs for latency in measured.values()} == {3}
    assert torch.get_num_threads() == threads
    assert all(spy.training for spy in spies.values())


def test_threads_and_mode_are_restored_after_an_error():
    threads, model = torch.get_num_threads(), nn.Linear(3, 3)
    with pytest.raises(RuntimeError):
        measure_latency(model, torch.randn(2, 4), threads=threads + 1)
    assert torch.get_num_threads() == threads
    assert model.training


def test_latency_tells_how_it_was_measured():
    latency = measure_latency(nn.Linear(3, 3).double(), torch.randn(2, 3).double(), **QUICK)
    assert (latency.runs, latency.device, latency.dtype) == (3, "cpu", "float64")
    assert latency.threads == torch.get_num_threads()
    assert latency.median_ms > 0
    assert latency.iqr_ms >= 0
    assert str(Latency(12.345, 0.678, 30, 2, "cpu", "float32")) == (
        "12.3 ms (IQR 0.68 ms, 30 runs, 2 threads, cpu, float32)"
    )


def test_time_bounds_the_number_of_runs():
    latency = measure_latency(nn.Identity(), torch.randn(1), seconds=0.02)
    assert 5 <= latency.runs <= 10_000
    assert measure_latency(nn.Identity(), torch.randn(1), seconds=1e-9).runs == 5


def test_layouts_are_measured_on_copies():
    class Layout(nn.Conv2d):
        def forward(self, x):
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return super().forward(x)

    seen, model, example = [], Layout(3, 4, 3), torch.randn(2, 3, 8, 8)
    layout, latency = fastest_dense(model, example, runs=2, warmup=0)
    assert seen == [False, True] * 2
    assert layout in ("NCHW", "channels_last")
    assert latency.runs == 2
    measure_latency(model, example, channels_last=True, runs=1, warmup=0)
    assert seen[-1] is True
    assert model.weight.is_contiguous()
    assert example.is_contiguous()


def test_the_faster_layout_of_each_model_is_given():
    models = {"dense": nn.Conv2d(8, 8, 3), "small": nn.Conv2d(8, 8, 1)}
    measured = measure_fastest(models, torch.randn(2, 8, 9, 9), **QUICK)
    assert measured.keys() == models.keys()


def _latency(median_ms, **other):
    return Latency(
        **(
            {"iqr_ms": 0, "runs": 9, "threads": 2, "device": "cpu", "dtype": "float32"}
            | {"median_ms": median_ms}
            | other
        )
    )


def test_speedup_compares_like_with_like():
    assert speedup(_latency(17.0), _latency(2.0)) == 8.5
    for other in ({"threads": 1}, {"device": "cuda:0"}, {"dtype": "float64"}):
        with pytest.raises(ValueError, match=next(iter(other))):
            speedup(_latency(17.0), _latency(2.0, **other))


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"runs": 0}, "runs must be an integer of at least 1 or None, got 0"),
        ({"runs": 2.0}, "runs must be an integer"),
        ({"warmup": -1}, "warmup must be an integer of at least 0, got -1"),
        ({"threads": 0}, "threads must be"),
        ({"seconds": 0}, "seconds must be a number above 0, got 0"),
    ],
)
def test_impossible_options_are_named(option, error):
    with pytest.raises(ValueError, match=error):
        measure_latency(nn.Identity(), torch.randn(1), **option)


def test_what_is_no_model_or_example_is_named():
    with pytest.raises(TypeError, match="model must be an nn.Module, got int"):
        measure_latency(3, torch.randn(1))
    with pytest.raises(TypeError, match="example must be a tensor, got list"):
        measure_latency(nn.Identity(), [1.0])
    with pytest.raises(ValueError, match="batch"):
        count_multiplies(nn.Identity(), torch.randn(0, 3))
    with pytest.raises(ValueError, match="on meta, the model on cpu"):
        measure_latency(nn.Linear(1, 1), torch.empty(1, 1, device="meta"))
    with pytest.raises(ValueError, match="at least one"):
        measure_interleaved({})


def test_cuda_is_timed_by_events():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = nn.Conv2d(3, 8, 3).cuda()
    latency = measure_latency(model, torch.randn(2, 3, 16, 16, device="cuda"), **QUICK)
    assert latency.device == "cuda:0"
    assert latency.median_ms > 0
