"""What a residual sum lacks, and a layer that makes up for it."""

import copy

import pytest
import torch
from torch import nn

import cpnb
from cpnb.layers.replacing import become
from cpnb.nets.resnet import CifarResNet
from cpnb.training import beside, layer_fit, moments
from cpnb.training.seen import seen

LAST = "layer2.1.conv2"  # of a block whose shortcut is that block's input


def pair():
    """A ResNet with statistics of its own, and one whose first block is off."""
    torch.manual_seed(0)
    net = CifarResNet(14, num_classes=5).train()
    net(torch.randn(64, 3, 16, 16))
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
    net.eval()
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.layer1[0].conv2.weight *= 0.4
    return other, net


def block_output(model, images):
    ((_, out),) = seen(model, model.layer2[1], images)
    return out


def test_the_sum_is_whole_with_what_it_lacks():
    model, net = pair()
    images = torch.randn(4, 3, 16, 16)
    lack = beside.Lack(model, net, LAST)(images)
    with torch.no_grad():
        ((_, z),) = seen(net, net.layer2[1].conv2, images)
        (((before,), _),) = [((x,), y) for x, y in seen(model, model.layer2[1], images)]
        mended = torch.relu(net.layer2[1].bn2(z + lack) + before)
    torch.testing.assert_close(mended, block_output(net, images), atol=1e-5, rtol=1e-4)
    assert lack.abs().mean() > 0.001  # of outputs of size 0.1


def test_a_net_with_factored_layers_is_followed_too():
    model, net = pair()
    model = cpnb.decompose(net, {"layer1.0.conv2": 2, "layer2.0.conv1": 2})
    lack = beside.Lack(model, net, LAST)(torch.randn(4, 3, 16, 16))
    assert lack.abs().mean() > 0.001


@pytest.mark.parametrize("layer", ["conv1", "layer2.1.conv1", "linear"])
def test_nothing_is_lacking_where_nothing_is_added(layer):
    assert beside.Lack(*pair(), layer)(torch.randn(2, 3, 16, 16)) == 0.0


def test_nothing_is_lacking_in_a_model_that_cannot_be_traced():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(x) + x if x.sum() > 0 else self.conv(x)

    assert beside.Lack(Branches(), Branches(), "conv")(torch.ones(1, 3, 4, 4)) == 0.0


def test_a_map_that_the_norm_shuts_off_makes_up_for_nothing():
    model, net = pair()
    with torch.no_grad():
        net.layer2[1].bn2.weight[3] = 0.0
    lack = beside.Lack(model, net, LAST)(torch.randn(2, 3, 16, 16))
    assert lack.isfinite().all() and not lack[:, 3].any() and lack[:, 2].any()


def put(model, net, data, how):
    if how == "refitted":
        assert layer_fit.refit(model, net, LAST, data)
    else:
        factored, _ = layer_fit.LayerFit(model, net, LAST, "nls", data).at(40, 20)
        become(model.get_submodule(LAST), factored, LAST)


@pytest.mark.parametrize("how", ["refitted", "factored"])
def test_a_layer_fitted_to_the_sum_comes_nearer_to_it(how, monkeypatch):
    """Than one that is fitted to its own output alone."""
    data, images = torch.randn(128, 3, 16, 16), torch.randn(64, 3, 16, 16)
    errors = {}
    for target in ("sum", "own"):
        model, net = pair()
        if target == "own":
            monkeypatch.setattr(moments, "Lack", lambda *_: lambda images: 0.0)
        put(model, net, data, how)
        errors[target] = (block_output(model, images) - block_output(net, images)).norm()
    assert errors["sum"] < 0.95 * errors["own"]
