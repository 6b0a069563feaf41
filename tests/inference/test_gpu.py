"""The Triton kernels repeat the layers: on a GPU, or interpreted where there is none.

Triton decides at import whether it interprets, so conftest.py sets TRITON_INTERPRET.
"""

import copy

import pytest
import torch
from fusing import LAYERS, assert_same, factored
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import cpnb
from cpnb.inference.fused import gpu
from cpnb.inference.fused.chain import Chain
from cpnb.inference.fused.module import FusedConv
from cpnb.layers.cp import CPConv2d
from cpnb.nets.charnet import Maxout

pytest.importorskip("triton", reason="Triton is not installed")
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
needs_cuda = pytest.mark.skipif(not CUDA, reason="needs CUDA")
COVERED = [
    name for name, make in LAYERS.items() if gpu.uncovered(Chain(make())) is None
]  # all but a maxout over 3 and the dense ones


@pytest.fixture(autouse=True)
def _ieee():
    """Products not in TF32, so that float32 can be told from it."""
    convolutions = torch.backends.cudnn.conv
    before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
    yield
    convolutions.fp32_precision = before


def error(layers, x, dtype=torch.float32):
    """Of the kernel against the layers in float64, relative to the largest value."""
    layers = [layer.to(DEVICE) for layer in layers]
    with torch.no_grad():
        wide = nn.Sequential(*copy.deepcopy(layers)).eval().double()
        expected = wide(x.to(DEVICE).double())
    layers = [layer.to(dtype) for layer in layers]
    got = gpu.Kernel(Chain(layers))(x.to(DEVICE, dtype))
    assert got.dtype == dtype and got.shape == expected.shape
    assert not got.numel() or got.is_contiguous(memory_format=torch.channels_last)
    return float((got - expected).abs().max() / expected.abs().max()) if got.numel() else 0.0


def test_most_layers_are_covered():
    left_out = set(LAYERS) - set(COVERED)
    assert left_out == {"maxout over 3", "dense", "dense, strided"}


@pytest.mark.parametrize("name", COVERED)
def test_repeats_the_layers(name):
    layers = LAYERS[name]()
    assert error(layers, torch.randn(2, Chain(layers).in_channels, 13, 21)) < 1e-5


# Half precisions keep 10 and 7 bits of a value, and round once more between the two kernels.
@pytest.mark.parametrize(
    ("dtype", "most"),
    [
        (torch.float16, 4e-3),
        pytest.param(
            *(torch.bfloat16, 3e-2),
            marks=pytest.mark.skipif(
                not CUDA, reason="the interpreter takes bfloat16 for integers"
            ),
        ),
    ],
)
def test_half_precisions(dtype, most):
    layers = [factored(20, 5, 24, 3), Maxout(4), nn.Conv2d(6, 9, 1), nn.ReLU()]
    assert error(layers, torch.randn(2, 5, 9, 9), dtype) < most


def sizes(least, most):
    return st.tuples(st.integers(least, most), st.integers(least, most))


@settings(max_examples=15)  # an interpreted run takes tenths of a second
@given(
    sizes(1, 5), sizes(1, 3), sizes(0, 3), sizes(1, 2), sizes(0, 12), st.integers(1, 3),
    st.integers(1, 40), st.integers(0, 3), st.sampled_from([1, 2, 4]), st.booleans(),
)  # fmt: skip
def test_any_geometry(kernel, stride, padding, dilation, more, groups, rank, samples, group, bias):
    options = {"stride": stride, "padding": padding, "dilation": dilation, "bias": bias}
    front = factored(rank, 3 * groups, 12 * groups, kernel, groups=groups, **options)
    size = [
        max(1, d * (k - 1) + 1 - 2 * p) + m
        for k, p, d, m in zip(kernel, padding, dilation, more, strict=True)
    ]
    assert error([front, Maxout(group)], torch.randn(samples, 3 * groups, *size)) < 1e-5


@pytest.mark.parametrize("act", [Maxout(2), Maxout(4), nn.ReLU()], ids=str)
def test_nan_is_not_lost(act):
    x = torch.randn(1, 3, 8, 8, device=DEVICE)
    x[0, 0, 4, 4] = torch.nan
    layers = [factored(8, 3, 8, 3).to(DEVICE), act]
    with torch.no_grad():
        layers[0].expand.bias[1:3] = torch.nan  # the second of one pair, the first of the other
    expected = nn.Sequential(*layers)(x).isnan()
    assert expected.any() and not expected.all()
    assert torch.equal(gpu.Kernel(Chain(layers))(x).isnan(), expected)


def test_input_that_is_not_contiguous():
    layers, x = [factored(8, 6, 12, 3)], torch.randn(4, 13, 12, 9).transpose(1, 2)[::2, ::2]
    assert error(layers, x) < 1e-5


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        (lambda: [factored(8, 3, 4, 3).double()], "torch.float64"),
        (lambda: [factored(8, 3, 4, 3, padding=1, padding_mode="reflect")], "'reflect'"),
        (lambda: [factored(8, 3, 6, 3), Maxout(3)], "a maxout over 3"),
        (lambda: [nn.Conv2d(3, 4, 3)], "a dense convolution"),
    ],
)
def test_what_it_does_not_cover_is_said(layers, reason):
    with pytest.raises(ValueError, match=f"does not cover this layer: .*{reason}"):
        gpu.Kernel(Chain(layers()))


def test_a_kernel_that_does_not_run_is_told(monkeypatch):
    monkeypatch.setattr(gpu, "_precision", lambda: [][0])
    with pytest.raises(gpu.KernelUnavailable, match="Triton does not run the kernel"):
        gpu.Kernel(Chain([factored(8, 3, 4, 3)]))


@needs_cuda
def test_the_optimised_net_repeats_its_outputs_on_a_gpu():
    net = cpnb.load_charnet().to(DEVICE)
    for name in ("conv2", "conv3"):
        setattr(net, name, CPConv2d(getattr(net, name), 16).to(DEVICE))
    fast = cpnb.optimize_for_inference(net, torch.randn(8, 1, 24, 24, device=DEVICE))
    x = torch.randn(3, 1, 31, 25, device=DEVICE)
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)
    for choice in fast.report.choices:
        if "conv1" not in choice.names:  # dense: not covered
            times = choice.milliseconds  # of the kernel's run, not of its compilation
            assert times["compiled"] < 20 * min(times.values())


@needs_cuda
def test_a_compiled_module_follows_its_weights_to_the_gpu():
    layers = [factored(8, 3, 8, 3), Maxout(2)]
    module = FusedConv(copy.deepcopy(layers), "compiled")
    x = torch.randn(2, 3, 9, 9)
    expected = module(x)
    torch.testing.assert_close(module.cuda()(x.cuda()).cpu(), expected, rtol=1e-4, atol=1e-4)
    assert isinstance(module._made[1], gpu.Kernel)
    assert_same("portable", layers, x)


def test_the_interpreter_is_on_where_there_is_no_gpu():
    from cpnb.inference.fused import triton_kernels

    interpreted = type(triton_kernels.reduce_vertical).__name__ == "InterpretedFunction"
    assert interpreted != CUDA
