"""The fast forms are the library's convolution, in values and gradients, and are used where due."""

import pytest
import torch
from torch import nn

from cpnb.training import fastconv
from cpnb.training.fastconv import conv2d_by_fft, conv2d_by_patches, fast_convolutions

FORMS = {"patches": conv2d_by_patches, "fft": conv2d_by_fft}


def _values_and_gradients(layer, x):
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return [y.detach(), x.grad, *(parameter.grad.clone() for parameter in layer.parameters())]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("size", [(9, 9), (16, 13), (11, 10)])
@pytest.mark.parametrize("kernel", [(9, 9), (8, 7), (1, 9)])
@pytest.mark.parametrize("bias", [True, False])
def test_each_form_is_the_librarys_convolution(monkeypatch, form, size, kernel, bias):
    layer = nn.Conv2d(3, 5, kernel, bias=bias, dtype=torch.float64)
    x = torch.randn(4, 3, *size, dtype=torch.float64)
    expected = _values_and_gradients(layer, x)
    monkeypatch.setattr(fastconv, "_form", lambda x, weight: form)
    monkeypatch.setattr(fastconv, "LEAST_AREA", 1)
    with fast_convolutions(layer):
        for ours, theirs in zip(_values_and_gradients(layer, x), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "channels", "form"),
    [
        ((64, 1, 24, 24), 1, "conv2d_by_patches"),  # CharNet's conv1
        ((64, 48, 16, 16), 48, "conv2d_by_fft"),  # conv2
        ((8, 48, 16, 16), 48, "conv2d"),  # too few samples to share the kernel's spectra
        ((64, 48, 9, 9), 48, "conv2d_by_patches"),  # one output position
        ((64, 2, 200, 200), 2, "conv2d"),  # a kernel as large as an image would not fit
        ((600, 1, 100, 100), 1, "conv2d"),  # nor would the patches
    ],
)
def test_the_form_follows_from_the_shapes(shape, channels, form):
    x, weight = torch.empty(shape, device="meta"), torch.empty(4, channels, 9, 9, device="meta")
    assert fastconv._form(x, weight).__name__ == form


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 9, stride=2),
        nn.Conv2d(4, 4, 9, padding=4),
        nn.Conv2d(4, 4, 9, padding="same"),
        nn.Conv2d(4, 4, 9, dilation=2),
        nn.Conv2d(4, 4, 9, groups=2),
        nn.Conv2d(4, 4, 9, dtype=torch.bfloat16),
    ],
    ids=str,
)
def test_other_layers_are_left_alone(layer):
    with fast_convolutions(layer):
        assert "forward" not in vars(layer)


def test_the_block_ends_as_it_began():
    layer = nn.Conv2d(2, 2, 9)
    with pytest.raises(RuntimeError, match="stop"), fast_convolutions(layer):
        assert "forward" in vars(layer)
        raise RuntimeError("stop")
    assert "forward" not in vars(layer)


def test_an_input_smaller_than_the_kernel_is_the_librarys_error():
    layer = nn.Conv2d(2, 2, 9)
    with fast_convolutions(layer), pytest.raises(RuntimeError, match="[Kk]ernel size"):
        layer(torch.randn(64, 2, 8, 8))
