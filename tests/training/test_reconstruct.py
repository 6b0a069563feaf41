"""Data reconstruction, the gradient metric, and fine-tuning above a layer."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import cpnb
from cpnb.training.finetuning import parts_up_to


@pytest.fixture
def net():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(
        OrderedDict(conv1=nn.Conv2d(2, 4, 3), block=block, pool=pool, head=nn.Linear(6, 3))
    ).eval()


@pytest.fixture
def data():
    torch.manual_seed(1)
    mix = torch.tensor([[1.0, 0.9], [0.0, 0.1]])  # the two input maps are nearly one
    images = torch.einsum("nchw,cd->ndhw", torch.randn(96, 2, 9, 9), mix)
    return TensorDataset(images, torch.randint(3, (96,)))


def distance(model, reference, layer, images):
    outputs = []
    for net in (model, reference):
        part = net.get_submodule(layer)
        with part.register_forward_hook(lambda m, i, o: outputs.append(o)), torch.no_grad():
            net(images)
    return float((outputs[0] - outputs[1]).norm() / outputs[1].norm())


def test_the_layer_comes_nearer_to_the_full_one(net, data):
    small = cpnb.decompose(net, {"conv1": 1}, method="jaderberg")
    small = cpnb.decompose(small, {"block.0": 2}, method="jaderberg")
    before = copy.deepcopy(small.state_dict())
    images = data.tensors[0]
    start = distance(small, net, "block.0", images)
    history = cpnb.reconstruct_on_data(
        small, net, "block.0", data, epochs=15, lr=0.01, progress=False
    )
    assert distance(small, net, "block.0", images) < 0.9 * start
    assert [row["epoch"] for row in history] == list(range(1, 16))
    assert history[-1]["rel_error"] < history[0]["rel_error"]
    changed = {
        key for key, value in small.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == {"block.0.first.weight", "block.0.last.weight", "block.0.last.bias"}


def test_it_makes_up_for_the_layers_below(net, data):
    """The target is the full net's output, the input that of the approximated layers below."""
    small = cpnb.decompose(net, {"conv1": 2}, method="jaderberg")
    with torch.no_grad():
        small.conv1.last.weight.mul_(2.0)  # an error below that the layer can make up for exactly
        small.conv1.last.bias.mul_(2.0)
    exact = copy.deepcopy(small)
    with torch.no_grad():
        exact.block[0].weight.div_(2.0)
    images = data.tensors[0]
    cpnb.reconstruct_on_data(small, net, "block.0", data, epochs=40, lr=0.02, progress=False)
    assert distance(small, net, "block.0", images) <= 1.05 * distance(exact, net, "block.0", images)


def test_the_same_seed_gives_the_same_layer(net, data):
    def run():
        small = cpnb.decompose(net, {"block.0": 2}, method="jaderberg")
        cpnb.reconstruct_on_data(small, net, "block.0", data, batch_size=32, seed=3, progress=False)
        return small.block[0].first.weight

    assert torch.equal(run(), run())


def test_bad_reconstructions(net, data):
    small = cpnb.decompose(net, {"block.0": 2}, method="jaderberg")
    with pytest.raises(ValueError, match="model has no layer 'conv9'; its parts are conv1, block"):
        cpnb.reconstruct_on_data(small, net, "conv9", data)
    with pytest.raises(ValueError, match="epochs must be an integer of at least 1, got 0"):
        cpnb.reconstruct_on_data(small, net, "block.0", data, epochs=0)
    other = nn.Sequential(OrderedDict(conv1=nn.Conv2d(2, 5, 3)))
    with pytest.raises(ValueError, match="gives .* in model and .* in reference"):
        cpnb.reconstruct_on_data(small, other, "conv1", data, progress=False)
    with pytest.raises(ValueError, match="'pool' of model has no parameters to train"):
        cpnb.reconstruct_on_data(small, net, "pool", data)


def test_gradient_weights_are_those_of_autograd(net, data):
    found = cpnb.gradient_weights(net, "block.0", data, batch_size=96)
    images, labels = data.tensors
    loss = nn.functional.cross_entropy(net(images), labels)
    squares = torch.autograd.grad(loss, net.block[0].weight)[0].double().square()
    by_input, by_output = squares.mean((0, 2, 3)), squares.mean((1, 2, 3))
    torch.testing.assert_close(found["weight"].diagonal(), by_input / squares.mean())
    torch.testing.assert_close(found["output_weight"], (by_output / squares.mean()).sqrt())


def test_gradient_weights_are_options_of_decompose(net, data):
    for layer, method, rank in (
        ("block.0", "jaderberg", 2),
        ("block.0", "biclustering", 1),
        ("head", "svd", 1),
    ):
        weights = cpnb.gradient_weights(net, layer, data)
        small = cpnb.decompose(net, {layer: rank}, method=method, **weights)
        plain = cpnb.decompose(net, {layer: rank}, method=method)
        assert small.get_submodule(layer).rel_error >= plain.get_submodule(layer).rel_error - 1e-9
    grouped = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(4 * 49, 3))
    weights = cpnb.gradient_weights(grouped, "0", data)
    cpnb.decompose(grouped, {"0": 1}, method="jaderberg", **weights)
    with pytest.raises(TypeError, match="must be an nn.Conv2d or nn.Linear, got Sequential"):
        cpnb.gradient_weights(net, "pool", data)


def test_only_the_layers_above_are_trained(net, data):
    small = cpnb.decompose(net, {"block.0": 2}, method="jaderberg")
    before = copy.deepcopy(small.state_dict())
    cpnb.finetune(small, data, 1, only_above="block.0", lr=0.1, progress=False)
    changed = {k for k, v in small.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {
        "block.1.weight", "block.1.bias", "block.1.running_mean", "block.1.running_var",
        "block.1.num_batches_tracked", "head.weight", "head.bias",
    }  # fmt: skip


def test_only_above_adds_to_freeze(net, data):
    before = copy.deepcopy(net.state_dict())
    cpnb.finetune(net, data, 1, only_above="conv1", freeze="head", progress=False)
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(k.startswith("block.") for k in changed)
    assert all(p.requires_grad for p in net.parameters())


def test_only_above_names_what_there_is(net, data):
    assert parts_up_to(net, "block") == ("conv1", "block.0", "block.1")
    with pytest.raises(
        ValueError, match="only_above='conv9' is no layer with parameters; these ar"
    ):
        cpnb.finetune(net, data, 1, only_above="conv9")
    with pytest.raises(ValueError, match="only_above='head' is the last layer"):
        cpnb.finetune(net, data, 1, only_above="head")
