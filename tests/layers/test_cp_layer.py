"""CPConv2d against nn.Conv2d with the rebuilt kernel: forward and gradient."""

import copy
import math

import pytest
import torch
from convolutions import CASES, assert_equals_rebuilt, conv
from torch import nn

import cpnb
from cpnb.layers.cp import CPConv2d

MORE = {
    "three groups": conv(6, 9, (3, 5), groups=3, stride=(2, 1), bias=False),
    "one input map": conv(1, 6, 3),
    "1x1": conv(4, 6, 1),
}


@pytest.mark.parametrize("name", [*CASES, *MORE])
@pytest.mark.parametrize("method", ["nls", "greedy"])
def test_equals_the_convolution_with_the_rebuilt_kernel(name, method):
    dense = (CASES | MORE)[name]
    rank = min(3, dense.weight[0].numel())
    assert_equals_rebuilt(CPConv2d.from_conv(dense, rank, method=method), dense)


def test_enough_terms_give_the_dense_layer_back():
    dense = conv(2, 3, 2)
    layer = CPConv2d.from_conv(dense, 8, max_degeneracy=None)
    x = torch.randn(2, 2, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-3, atol=1e-4)


def test_gradients_of_all_four_layers_are_autograds():
    layer = CPConv2d.from_conv(conv(3, 4, 3, stride=(1, 2), padding=1), 2)
    x = torch.randn(1, 3, 5, 6, dtype=torch.float64)
    weights = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    names = [n for n, _ in layer.named_parameters()]

    def run(*values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, weights)


def test_multiplies_are_those_of_the_formula():
    layer = CPConv2d.from_conv(conv(8, 16, 5, dtype=torch.float32), 4)
    x = torch.randn(1, 8, 12, 10)  # maps of 12×10 become 8×6
    expected = 4 * (8 * 12 * 10 + 5 * 8 * 10 + 5 * 8 * 6 + 16 * 8 * 6)
    assert cpnb.count_multiplies(layer, x) == expected


def test_a_frozen_convolution_becomes_a_frozen_layer():
    dense = conv(3, 4, 3).requires_grad_(False)
    layer = CPConv2d.from_conv(dense, 2)
    assert not any(p.requires_grad for p in layer.parameters())


def test_keeps_dtype_mode_bias_and_leaves_the_convolution_alone():
    dense = conv(3, 4, 3, dtype=torch.bfloat16).eval()
    dense.bias.requires_grad_(False)
    before = copy.deepcopy(dense.state_dict())
    layer = CPConv2d.from_conv(dense, 2, method="als")
    assert all(p.dtype == torch.bfloat16 for p in layer.parameters())
    assert not layer.training and not layer.vertical.training
    assert torch.equal(layer.expand.bias, dense.bias) and not layer.expand.bias.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in dense.state_dict().items())
    assert layer(torch.randn(0, 3, 8, 8, dtype=torch.bfloat16)).shape == (0, 4, 6, 6)


def test_groups_are_decomposed_one_by_one():
    dense = conv(4, 6, 3, groups=2)
    layer = CPConv2d.from_conv(dense, 2)
    for kernel, rebuilt in zip(dense.weight.chunk(2), layer.to_conv().weight.chunk(2), strict=True):
        alone = cpnb.cp_nls(kernel, 2).to_tensor()
        torch.testing.assert_close(rebuilt, alone, rtol=1e-6, atol=1e-8)


def test_plain_modules_survive_state_dict_and_export():
    layer = CPConv2d.from_conv(conv(3, 4, 3, padding=1, dtype=torch.float32), 2).eval()
    x = torch.randn(2, 3, 6, 6)
    fresh = CPConv2d(conv(3, 4, 3, padding=1, dtype=torch.float32), 2)
    fresh.load_state_dict(layer.state_dict())
    torch.testing.assert_close(fresh(x), layer(x))
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x))
    torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_device_is_kept():
    layer = CPConv2d.from_conv(conv(3, 4, 3, dtype=torch.float32).cuda(), 2)
    assert all(p.is_cuda for p in layer.parameters()) and layer.to_conv().weight.is_cuda


def test_bad_input():
    dense = conv(3, 4, 3)
    with pytest.raises(TypeError, match="conv must be an nn.Conv2d, got Linear"):
        CPConv2d.from_conv(nn.Linear(3, 4), 2)
    with pytest.raises(TypeError, match="got ConvTranspose2d"):
        CPConv2d.from_conv(nn.ConvTranspose2d(3, 4, 3), 2)
    with pytest.raises(TypeError, match="already a CPConv2d"):
        CPConv2d.from_conv(CPConv2d.from_conv(dense, 2), 2)
    with pytest.raises(ValueError, match="method must be one of nls, als, greedy, got 'svd'"):
        CPConv2d.from_conv(dense, 2, method="svd")
    with pytest.raises(ValueError, match="rank must be an integer >= 1, got 0"):
        CPConv2d.from_conv(dense, 0)
    nn.init.zeros_(dense.weight)
    with pytest.raises(ValueError, match="all zeros"):
        CPConv2d.from_conv(dense, 2)


def test_repr_tells_the_fit():
    layer = CPConv2d.from_conv(conv(3, 4, 3), 2)
    assert "rank=2, rel_error=0." in repr(layer)
    assert math.isfinite(layer.degeneracy)
