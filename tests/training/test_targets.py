"""What a layer should give for the sum that it enters and the ReLU behind."""

import copy

import pytest
import torch
from torch import nn

import cpnb
from cpnb.layers.replacing import become
from cpnb.nets.resnet import CifarResNet
from cpnb.training import layer_fit, moments
from cpnb.training.seen import seen
from cpnb.training.targets import Target

INNER, LAST = "layer2.1.conv1", "layer2.1.conv2"  # of a block whose shortcut is its input
BRANCH = 3  # of the maps


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


def outputs(model, layer, images):
    with torch.no_grad():
        ((_, out),) = seen(model, model.get_submodule(layer), images)
    return out


def target_of(model, net, layer, images):
    now, full = (outputs(m, layer, images) for m in (model, net))
    ((_, wanted),) = Target(model, net, layer).pairs(images)
    return wanted, now, full


def test_the_last_layer_of_a_block_makes_the_sum_whole():
    model, net = pair()
    images = torch.randn(4, 3, 16, 16)
    wanted, now, full = target_of(model, net, LAST, images)
    shortcut = outputs(model, "layer2.0", images)
    norm, whole = net.layer2[1].bn2, outputs(net, "layer2.1", images)
    with torch.no_grad():
        torch.testing.assert_close(torch.relu(norm(wanted) + shortcut), whole, atol=1e-5, rtol=1e-4)
        assert (torch.relu(norm(full) + shortcut) - whole).abs().max() > 0.1


def test_where_both_are_negative_nothing_is_mended():
    model, net = pair()
    images = torch.randn(4, 3, 16, 16)
    wanted, now, full = target_of(model, net, INNER, images)
    with torch.no_grad():
        have, want = (net.layer2[1].bn1(z) for z in (now, full))
    off, on = (have < 0) & (want < 0), want > 0
    assert off.any() and on.any()
    torch.testing.assert_close(wanted[off], now[off])
    torch.testing.assert_close(wanted[on], full[on], atol=1e-5, rtol=1e-4)
    with torch.no_grad():  # and where it was on and should be off, it goes to the edge
        edge = net.layer2[1].bn1(wanted)[(have > 0) & (want < 0)]
    torch.testing.assert_close(edge, torch.zeros_like(edge), atol=1e-5, rtol=0)


def test_without_a_relu_behind_all_is_mended():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Flatten()).eval()
    model = copy.deepcopy(net)
    nn.init.zeros_(model[0].bias)
    wanted, now, full = target_of(model, net, "1", torch.randn(2, 3, 8, 8))
    torch.testing.assert_close(wanted, full)
    assert (now - full).abs().max() > 1e-3


def test_a_net_with_factored_layers_is_followed_too():
    _, net = pair()
    model = cpnb.decompose(net, {"layer1.0.conv2": 2, "layer2.0.conv1": 2})
    wanted, _, full = target_of(model, net, LAST, torch.randn(4, 3, 16, 16))
    assert (wanted - full).abs().mean() > 1e-3


class Branches(nn.Module):
    """It cannot be traced."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.conv(x) + x if x.sum() > 0 else self.conv(x))


class Twice(nn.Module):
    """Its layer runs twice: no one target is right for both."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.conv(torch.relu(self.conv(x))))


@pytest.mark.parametrize(("kind", "calls"), [(Branches, 1), (Twice, 2)])
def test_where_nothing_is_known_it_is_the_references_output(kind, calls):
    model, net, images = kind(), kind(), torch.ones(1, 3, 4, 4)
    wanted = [z for _, z in Target(model, net, "conv").pairs(images)]
    full = [z for _, z in seen(net, net.conv, images, calls)]
    assert len(wanted) == calls
    assert all(torch.equal(a, b) for a, b in zip(wanted, full, strict=True))


def test_a_network_with_hooks_is_run_as_it_is():
    model, net = pair()
    for part in (model, net):  # as one that scales its images itself
        part.register_forward_pre_hook(lambda _, args: (3 * args[0],))
    wanted, _, full = target_of(model, net, INNER, torch.randn(2, 3, 16, 16))
    assert torch.equal(wanted, full)


def test_a_norm_of_the_batch_is_none_that_a_target_looks_through():
    torch.manual_seed(0)
    own = nn.BatchNorm2d(4, track_running_stats=False)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), own, nn.ReLU()).eval()
    model = copy.deepcopy(net)
    nn.init.ones_(model[0].bias)
    wanted, _, full = target_of(model, net, "0", torch.randn(2, 3, 8, 8))
    torch.testing.assert_close(wanted, full)


def test_a_map_that_the_norm_shuts_off_stays():
    model, net = pair()
    for part in (model, net):
        with torch.no_grad():
            part.layer2[1].bn2.weight[BRANCH] = 0.0
    wanted, now, _ = target_of(model, net, LAST, torch.randn(2, 3, 16, 16))
    assert wanted.isfinite().all() and torch.equal(wanted[:, BRANCH], now[:, BRANCH])


def plainly(*args, downstream, **kwargs):
    return moments.patch_moments(*args, **kwargs)


def put(model, net, data, how):
    if how == "refitted":
        assert layer_fit.refit(model, net, LAST, data)
    else:
        fit = layer_fit.LayerFit(model, net, LAST, "nls", data)
        factored, _ = fit.at(40, layer_fit.Steps(solver=25, fit=20))
        become(model.get_submodule(LAST), factored, LAST)


@pytest.mark.parametrize("how", ["refitted", "factored"])
def test_a_layer_fitted_to_its_target_brings_the_block_nearer(how, monkeypatch):
    """Than one that is fitted to its own output alone."""
    data, images = torch.randn(128, 3, 16, 16), torch.randn(64, 3, 16, 16)
    errors = {}
    for wanted in ("target", "own"):
        model, net = pair()
        if wanted == "own":
            monkeypatch.setattr(layer_fit, "patch_moments", plainly)
        put(model, net, data, how)
        found = [outputs(m, "layer2.1", images) for m in (model, net)]
        errors[wanted] = (found[0] - found[1]).norm()
        assert Target(model, net, LAST)._ends[0]  # what was put in can be followed, too
    assert errors["target"] < 0.95 * errors["own"]
