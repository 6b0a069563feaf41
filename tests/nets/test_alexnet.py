"""AlexNet, the small one, SqueezeNet, and the authors' block-diagonal tensor."""

import math
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import TensorDataset

import cpnb
from cpnb.data.images import IMAGENET_MEAN, IMAGENET_STD, normalise
from cpnb.nets.alexnet import (
    AlexNet,
    CaffeInput,
    SmallAlexNet,
    block_diagonal,
    block_diagonal_rank,
    load_alexnet,
    load_small_alexnet,
    open_alexnet,
)
from cpnb.nets.squeezenet import expand_layers, load_squeezenet, rank_for
from cpnb.nets.weights import CheckpointError

SQUEEZENET = os.path.join(os.environ.get("CPNB_DATA", ""), "squeezenet1_1.safetensors")


@pytest.fixture(scope="module")
def alexnet():
    return AlexNet().eval()


def test_alexnet_has_the_papers_conv2(alexnet):
    x = torch.randn(1, 3, 227, 227)
    counts = cpnb.multiplies_per_layer(alexnet, x)
    assert counts["conv2"] == 223_948_800
    assert alexnet(x).shape == (1, 1000)
    assert alexnet.conv2.groups == 2 and alexnet.conv2.weight.shape == (256, 48, 5, 5)
    assert sum(p.numel() for p in alexnet.parameters()) == 60_965_224  # Caffe's


@pytest.mark.parametrize("rank,bound", [(140, 5.90), (200, 4.13), (300, 2.75)])
def test_bounds_of_conv2_are_the_papers(rank, bound):
    conv = nn.Conv2d(96, 256, 5, padding=2, groups=2)
    x = torch.randn(1, 96, 27, 27)
    ratio = cpnb.count_multiplies(conv, x) / cpnb.count_multiplies(cpnb.CPConv2d(conv, rank), x)
    assert ratio == pytest.approx(bound, abs=0.01)


def test_weights_come_from_a_local_file(alexnet, tmp_path):
    path = tmp_path / "alexnet.safetensors"
    cpnb.save_weights(alexnet, path)
    assert torch.equal(load_alexnet(path).conv2.weight, alexnet.conv2.weight)
    state = dict(alexnet.state_dict())
    state["features.0.weight"] = state.pop("conv1.weight")
    state["fc8.bias"] = torch.zeros(10)
    save_file(state, path)
    message = r"missing conv1.weight; unexpected features.0.weight; fc8.bias has shape \(10,\)"
    with pytest.raises(CheckpointError, match=message):
        load_alexnet(path)
    with pytest.raises(FileNotFoundError):
        load_alexnet(tmp_path / "none.safetensors")


def test_caffe_takes_blue_green_red_of_255_less_its_mean():
    pixels = torch.tensor([10.0, 100, 200]).view(1, 3, 1, 1).repeat(1, 1, 224, 224)
    images = CaffeInput()(normalise(pixels, IMAGENET_MEAN, IMAGENET_STD))
    expected = torch.tensor([200.0 - 104, 100 - 117, 10 - 123]).view(1, 3, 1, 1)
    torch.testing.assert_close(images, expected.expand(1, 3, 227, 227), rtol=0, atol=1e-3)


def test_a_file_tells_which_alexnet_it_is_of(alexnet, tmp_path):
    from torchvision.models import alexnet as torchvisions

    path, x = tmp_path / "weights.safetensors", torch.randn(1, 3, 224, 224)
    cpnb.save_weights(alexnet, path)
    net, layer = open_alexnet(path)
    assert layer == "net.conv2" and cpnb.get_convolution(net, layer).groups == 2
    torch.testing.assert_close(net(x), alexnet(CaffeInput()(x)))
    other = torchvisions().eval()
    cpnb.save_weights(other, path)
    net, layer = open_alexnet(path)
    assert torch.equal(net(x), other(x))
    assert cpnb.get_convolution(net, layer).weight.shape == (192, 64, 5, 5)
    small, layer = open_alexnet()
    cpnb.save_weights(small, path)
    again, _ = open_alexnet(path)
    assert torch.equal(again.conv2.weight, cpnb.get_convolution(small, layer).weight)


def test_small_alexnet():
    net = SmallAlexNet().eval()
    x = torch.randn(2, 3, 32, 32)
    assert net(x).shape == (2, 10)
    counts = cpnb.multiplies_per_layer(net, x)
    assert counts == {"conv1": 2_654_208, "conv2": 19_660_800, "conv3": 9_437_184, "fc": 40_960}
    assert net.conv2.weight.shape == (256, 48, 5, 5) and net.conv2.groups == 2
    with pytest.raises(ValueError, match=r"takes a tensor \(N, 3, 32, 32\), got shape \(1, 1, 24"):
        net(torch.randn(1, 1, 24, 24))
    with pytest.raises(FileNotFoundError, match=r"data/train_alexnet.py trains one"):
        load_small_alexnet("none.safetensors")


def test_block_diagonal_is_the_same_layer():
    conv = nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2), groups=2, dtype=torch.float64)
    dense = block_diagonal(conv)
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(dense(x), conv(x))
    assert dense.groups == 1 and (dense.weight == 0).sum() == dense.weight.numel() // 2
    assert torch.equal(dense.bias, conv.bias)


def test_zeros_cost_rank():
    """Per group R terms each: the block-diagonal tensor needs both groups' terms, 2R."""
    torch.manual_seed(0)
    conv = nn.Conv2d(12, 16, 3, groups=2)
    options = {"n_iter_max": 100}
    by_group = cpnb.CPConv2d.from_conv(conv, 8, method="als", **options).rel_error
    same = cpnb.CPConv2d.from_conv(block_diagonal(conv), 8, method="als", **options).rel_error
    assert by_group < 0.95 * same


def test_squeezenet_layers_and_ranks():
    from torchvision.models import squeezenet1_1

    net = squeezenet1_1()
    names = expand_layers(net)
    assert len(names) == 8 and names[0] == "features.3.expand3x3"
    x = torch.randn(1, 3, 224, 224)
    dense = cpnb.multiplies_per_layer(net, x)
    for scheme, method in (("cp", "greedy"), ("jaderberg", "jaderberg")):
        name = names[0]
        conv = net.get_submodule(name)
        rank = rank_for(conv, 2, scheme)
        options = {"n_iter_max": 1} if method == "greedy" else {}
        small = cpnb.decompose(net, {name: rank}, method=method, **options)
        counts = cpnb.multiplies_per_layer(small, x)
        ours = sum(n for layer, n in counts.items() if layer.startswith(name))
        assert ours <= dense[name] / 2 < ours * (rank + 1) / rank
    with pytest.raises(ValueError, match="no rank of at least 1"):
        rank_for(conv, 10_000)
    with pytest.raises(ValueError, match="scheme must be one of cp, jaderberg, got 'svd'"):
        rank_for(conv, 2, "svd")


def test_topk():
    logits = torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0], [3, 2, 1, 0], [0, 1, 2, 3]])
    data = TensorDataset(logits, torch.tensor([0, 1, 3, 0]))
    found = cpnb.topk_accuracy(nn.Identity(), data, k=(1, 2, 4))
    assert found == {1: 0.25, 2: 0.5, 4: 1.0}
    assert math.isclose(cpnb.accuracy(nn.Identity(), data), found[1])


@pytest.mark.skipif(not os.path.isfile(SQUEEZENET), reason="needs CPNB_DATA")
def test_the_real_squeezenet():
    data = cpnb.load_dataset("imagenet-sample", "test").sample(64, seed=0)
    found = cpnb.topk_accuracy(load_squeezenet(), data)
    assert found[1] > 0.4 and found[5] > 0.7


@pytest.mark.parametrize("rank", [1, 7, 200])
def test_block_diagonal_rank_is_the_largest_that_costs_no_more(rank):
    conv, x = torch.nn.Conv2d(12, 20, (3, 5), padding=(1, 2), groups=4), torch.randn(1, 12, 6, 7)
    groups = cpnb.count_multiplies(cpnb.CPConv2d(conv, rank), x)
    at_most, above = (
        cpnb.count_multiplies(cpnb.CPConv2d(block_diagonal(conv), r), x)
        for r in (block_diagonal_rank(conv, rank), block_diagonal_rank(conv, rank) + 1)
    )
    assert at_most <= groups < above
