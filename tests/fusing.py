"""Layers to be fused, and how a fused one is compared with them."""

import copy

import pytest
import torch
from torch import nn

from cpnb.inference.fused import native
from cpnb.inference.fused.module import FusedConv
from cpnb.layers.cp import CPConv2d
from cpnb.nets.charnet import Maxout

try:
    native.library()
    WITHOUT = None
except native.KernelUnavailable as error:
    WITHOUT = str(error)
needs_compiler = pytest.mark.skipif(WITHOUT is not None, reason=str(WITHOUT))
compiled = pytest.param("compiled", marks=needs_compiler)
both = pytest.mark.parametrize("path", ["portable", compiled])


def factored(rank, *args, **options):
    """A factored layer with random factors: no decomposition is needed to compare outputs."""
    return CPConv2d(nn.Conv2d(*args, **options), rank).eval()


def assert_same(path, layers, x, tolerance=1e-5):
    """Against the layers in float64; the error relative to the largest value."""
    wide = nn.Sequential(*copy.deepcopy(layers)).eval().double()
    with torch.inference_mode():
        expected = wide(x.double())
        got = FusedConv(layers, path)(x)
    assert got.dtype == x.dtype and got.shape == expected.shape
    if expected.numel():
        assert (got - expected).abs().max() <= tolerance * expected.abs().max()


def assert_repeats(fast, model, x, tolerance=1e-5):
    """The optimised model against the model; the error relative to the largest value."""
    with torch.inference_mode():
        got, expected = fast(x), model(x)
    assert got.shape == expected.shape
    if got.numel():
        assert (got - expected).abs().max() <= tolerance * expected.abs().max()


LAYERS = {
    "factored": lambda: [factored(7, 5, 9, 3)],
    "of CharNet's conv2": lambda: [factored(64, 48, 128, 9), Maxout(2)],
    "with a link": lambda: [factored(20, 5, 24, 3), Maxout(4), nn.Conv2d(6, 9, 1), nn.ReLU()],
    "with two links": lambda: [
        *(factored(3, 5, 24, 3), nn.ReLU(), nn.Conv2d(24, 40, 1, bias=False)),
        *(Maxout(2), nn.Dropout(), nn.Conv2d(20, 37, 1), Maxout(1)),
    ],
    "7 and 8 taps": lambda: [factored(6, 5, 9, (7, 8), padding=(3, 4))],
    "maxout over 3": lambda: [factored(6, 5, 33, 3), Maxout(3)],
    "groups": lambda: [factored(5, 10, 24, 5, padding=2, groups=2), Maxout(2)],
    "depthwise": lambda: [factored(2, 5, 10, 3, groups=5), nn.ReLU()],
    "strides, padding, dilation": lambda: [
        factored(17, 5, 9, (3, 5), stride=(2, 3), padding=(4, 1), dilation=(2, 1))
    ],
    "stride past the kernel": lambda: [factored(4, 5, 9, 1, stride=3)],
    "even and same": lambda: [factored(4, 5, 9, (4, 2), padding="same")],
    "one channel": lambda: [factored(16, 1, 96, 9), Maxout(2)],
    "without bias": lambda: [factored(4, 5, 8, 3, bias=False)],
    "dense": lambda: [nn.Conv2d(1, 96, 9), Maxout(2)],
    "dense, strided": lambda: [
        *(nn.Conv2d(5, 9, (3, 5), stride=(2, 3), padding=(4, 1), dilation=(2, 1)), nn.ReLU())
    ],
    "1x1": lambda: [nn.Conv2d(5, 148, 1), Maxout(4)],
}
