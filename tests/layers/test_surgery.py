"""Model surgery."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

import cpnb
from cpnb.layers.cp import CPConv2d
from cpnb.layers.surgery import convolution_names


@pytest.fixture
def net():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU())
    parts = OrderedDict(conv1=nn.Conv2d(1, 4, 3), block=inner, head=nn.Linear(6, 2))
    return nn.Sequential(parts)


def test_named_layers_are_replaced_in_a_copy(net):
    before = copy.deepcopy(net.state_dict())
    small = cpnb.decompose(net, {"conv1": 2, "block.0": 3})
    assert isinstance(small.conv1, CPConv2d) and isinstance(small.block[0], CPConv2d)
    assert isinstance(net.conv1, nn.Conv2d)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert list(dict(small.named_children())) == ["conv1", "block", "head"]
    assert small.block[0].rank == 3 and small.conv1.rank == 2


def test_output_is_that_of_the_net_with_rebuilt_kernels(net):
    small = cpnb.decompose(net, {"block.0": 3})
    dense = copy.deepcopy(small)
    dense.block[0] = small.block[0].to_conv()
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(small.block(small.conv1(x)), dense.block(dense.conv1(x)))


def test_layer_by_layer_as_in_the_paper(net):
    first = cpnb.decompose(net, {"block.0": 3})
    both = cpnb.decompose(first, {"conv1": 2})
    assert isinstance(both.conv1, CPConv2d) and isinstance(both.block[0], CPConv2d)
    assert convolution_names(net) == ["conv1", "block.0"]
    assert convolution_names(first) == ["conv1"]
    assert convolution_names(both) == []


def test_solver_options_reach_the_solver(net):
    small = cpnb.decompose(net, {"block.0": 3}, method="als", n_iter_max=1)
    better = cpnb.decompose(net, {"block.0": 3}, method="als", n_iter_max=100)
    assert better.block[0].rel_error < small.block[0].rel_error


@pytest.mark.parametrize(
    "ranks,error,message",
    [
        (
            {"conv9": 2},
            ValueError,
            "no layer 'conv9' in Sequential; its convolutions are conv1, block.0",
        ),
        ({"head": 2}, TypeError, "layer 'head' must be an nn.Conv2d, got Linear"),
        ({}, ValueError, "must name at least one of conv1, block.0"),
        (64, TypeError, "must map layer names to ranks"),
        ({"conv1": 0}, ValueError, "layer 'conv1': rank must be an integer >= 1, got 0"),
        ({"conv1": 2, "block.0": 1.5}, TypeError, "layer 'block.0': rank must be an integer"),
    ],
)
def test_bad_ranks(net, ranks, error, message):
    with pytest.raises(error, match=message):
        cpnb.decompose(net, ranks)


def test_a_decomposed_layer_is_refused(net):
    small = cpnb.decompose(net, {"conv1": 2})
    with pytest.raises(TypeError, match="layer 'conv1' is already a CPConv2d"):
        cpnb.decompose(small, {"conv1": 2})
