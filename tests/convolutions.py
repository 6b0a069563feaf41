"""Convolutions with every option, and what any layer that replaces one must repeat."""

import pytest
import torch
from torch import nn


def conv(*args, **kw):
    torch.manual_seed(0)
    return nn.Conv2d(*args, **{"dtype": torch.float64, **kw})


CASES = {
    "plain": conv(4, 6, 3),
    "stride by axis": conv(4, 6, 3, stride=(2, 3)),
    "padding by axis": conv(4, 6, 3, padding=(0, 2)),
    "dilation by axis": conv(4, 6, 3, dilation=(2, 1), padding=1),
    "rectangular": conv(4, 6, (5, 2), padding=(2, 1), stride=(1, 2)),
    "groups": conv(8, 12, 3, groups=2, padding=1),
    "groups, stride, no bias": conv(8, 12, (3, 5), groups=2, stride=(2, 1), bias=False),
    "same": conv(4, 6, (3, 4), padding="same", dilation=(2, 1)),
    "valid": conv(4, 6, 3, padding="valid"),
    "no bias": conv(4, 6, 3, bias=False),
    "reflect": conv(4, 6, 3, padding=(1, 2), padding_mode="reflect"),
    "replicate": conv(4, 6, 5, padding=2, padding_mode="replicate", stride=2),
    "circular": conv(4, 6, 3, padding=(2, 1), padding_mode="circular"),
    "same, reflect": conv(4, 6, 4, padding="same", padding_mode="reflect"),
    "float32": conv(4, 6, 3, dtype=torch.float32),
}


def assert_equals_rebuilt(layer, dense):
    """Output, gradient, options and bias of ``to_conv()``, and the error that the layer tells."""
    rebuilt = layer.to_conv()
    for option in ("stride", "padding", "dilation", "groups", "padding_mode", "kernel_size"):
        assert getattr(rebuilt, option) == getattr(dense, option)
    x = torch.randn(2, dense.in_channels, 11, 12, dtype=dense.weight.dtype, requires_grad=True)
    out, expected = layer(x), rebuilt(x)
    assert out.shape == dense(x).shape
    torch.testing.assert_close(out, expected)
    weights = torch.randn_like(out)
    got, want = (torch.autograd.grad((y * weights).sum(), x)[0] for y in (out, expected))
    torch.testing.assert_close(got, want)
    error = float((dense.weight - rebuilt.weight).detach().norm() / dense.weight.detach().norm())
    assert layer.rel_error == pytest.approx(error, rel=1e-5, abs=1e-6)
    assert layer.rel_error < 1
    if dense.bias is not None:
        assert torch.equal(rebuilt.bias, dense.bias)
