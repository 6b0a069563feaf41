"""Passes from a cut on give what whole passes do, for any network that can be traced."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.models import DenseNet, mobilenet_v2, resnet18

import cpnb
from cpnb.inference import compression, planning
from cpnb.training import cuts
from cpnb.training.cuts import Reading
from cpnb.training.divergence import Trial, sensitivities
from cpnb.training.layer_fit import Steps
from cpnb.training.seen import calls_of, seen


class Odd(nn.Module):
    """Works in place, has a parameter of its own, and calls a layer twice."""

    def __init__(self):
        super().__init__()
        self.first, self.twice = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.last, self.head = nn.Conv2d(6, 6, 3), nn.Linear(6, 5)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))

    def forward(self, x):
        x = F.relu_(self.first(x))
        x = x + self.twice(x)
        x = F.relu(self.last(self.scale * self.twice(x)))
        x.mul_(2)
        return self.head(x.mean((2, 3)))


def residual():
    return cpnb.CifarResNet(8)


def concatenating():
    return DenseNet(4, (2, 2), 8, num_classes=5)


NETS = [Odd, residual, resnet18, mobilenet_v2, concatenating]


def made(net, seed=0):
    torch.manual_seed(seed)
    model = net()
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.mark.parametrize("net", NETS)
@torch.no_grad()
def test_from_a_cut_on_each_layer_sees_what_it_does_in_a_whole_pass(net):
    models = [made(net, 0), made(net, 1)]
    images = torch.randn(3, 3, 32, 32)
    want = [model(images) for model in models]
    reading = Reading(models, images)
    layers = [n for n, m in models[0].named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for name in layers:
        reading.advance(name)
        for model, rest, logits in zip(models, reading.models, want, strict=True):
            part = model.get_submodule(name)
            assert rest.get_submodule(name) is part
            calls = calls_of(rest, part, reading.data)
            found, whole = seen(rest, part, reading.data, calls), seen(model, part, images, calls)
            for (x, _), (wanted, _) in zip(found, whole, strict=True):
                torch.testing.assert_close(x, wanted, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(rest(reading.data), logits, rtol=1e-4, atol=1e-4)
    assert reading.data.shape[:2] == (3, 2)
    whole_pass, last = sum(1 for _ in models[0].modules()), reading.models[0]
    assert sum(1 for _ in last.modules()) < whole_pass / 2  # it begins near the end


def test_a_layer_before_the_cut_is_reached_from_the_images():
    net, images = made(residual), torch.randn(2, 3, 16, 16)
    reading = Reading([net], images)
    reading.advance("linear")
    assert reading.data is not images
    reading.advance("conv1")
    assert reading.data is images and reading.models == [net]


def test_not_more_is_kept_than_allowed(monkeypatch):
    """But the last maps before the layer that are few enough."""
    net, images = made(residual), torch.randn(4, 3, 16, 16)
    monkeypatch.setattr(cuts, "MOST", 2 * 4 * 8 * 8 * 32 * 4)  # of the second stage, for two nets
    reading = Reading([net, net], images)
    reading.advance("layer1.0.conv1")
    assert reading.data is images
    reading.advance("layer3.0.conv1")
    assert reading.data.nbytes == cuts.MOST
    reading = Reading([net, net], torch.cat([images, images]))
    reading.advance("layer3.0.conv1")
    assert reading.data.shape == (8, 3, 16, 16)


class Branching(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what, self.conv, self.head = what, nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

    def forward(self, x):
        x = self.conv(x)
        if self.what == "branches" and x.sum() > 0:
            x = 2 * x
        if self.what == "noise":
            x = x + torch.randn_like(x)
        if self.what == "turns":  # the images are no longer its first dimension
            x = torch.relu(x.transpose(0, 1)).transpose(0, 1)
        if self.what == "fours":
            x = x.reshape(4, 4, 6, 6)
        return self.head(x).mean((2, 3))


@pytest.mark.parametrize("what", ["branches", "noise", "fours", "hooked"])
def test_what_a_graph_does_not_tell_runs_whole(what):
    net, images = Branching(what).eval(), torch.randn(4, 3, 8, 8)
    if what == "hooked":
        net.conv.register_forward_hook(lambda module, args, output: 2 * output)
    reading = Reading([net], images)
    reading.advance("head")
    assert reading.models == [net] and reading.data is images


@pytest.mark.parametrize("number", [1, 2, 4])
def test_maps_are_cut_along_the_images(number):
    net, images = Branching("turns").eval(), torch.randn(number, 3, 8, 8)
    reading = Reading([net], images)
    reading.advance("head")
    assert reading.data.shape == (number, 1, 4, 6, 6)
    torch.testing.assert_close(reading.models[0](reading.data), net(images))


class Viewing(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.conv, self.head, self.size = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), size

    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.head(x).view(-1, self.size).tanh()


@pytest.mark.parametrize("how", ["mean", "view"])
@torch.no_grad()
def test_maps_lie_channels_last_where_the_network_can_take_them_so(how):
    net = (Branching("") if how == "mean" else Viewing(5 * 4 * 4)).eval()
    images = torch.randn(3, 3, 8, 8)
    reading, inputs = Reading([net], images), []
    reading.advance("head")
    net.head.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    torch.testing.assert_close(reading.models[0](reading.data), net(images))
    last = inputs[0].is_contiguous(memory_format=torch.channels_last)
    assert last == (how == "mean")
    assert reading.data.shape == (3, 1, 4, 6, 6)


class Halving(nn.Module):
    """What stands first behind its cut works in place, and no later place is one."""

    def __init__(self):
        super().__init__()
        self.first, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.first(x)
        return (x + self.conv(x.mul_(0.5))).mean((2, 3))


@torch.no_grad()
def test_the_kept_maps_are_not_written_to():
    net, images = Halving().eval(), torch.randn(4, 3, 8, 8)
    reading = Reading([net], images)
    reading.advance("conv")
    before, (rest,) = reading.data.clone(), reading.models
    torch.testing.assert_close(rest(reading.data), net(images))
    assert rest is not net and torch.equal(reading.data, before)


def test_a_network_is_traced_once_however_many_batches(monkeypatch):
    """Also one that cannot be."""
    made_of, asked = cuts.Cuts.of, []
    monkeypatch.setattr(cuts.Cuts, "of", lambda *args: asked.append(1) or made_of(*args))
    for what in ("nothing", "branches"):
        net = Branching(what).eval()
        trials = {"head": Trial({"head": nn.Conv2d(4, 5, 3)}, 0.5)}
        sensitivities(net, trials, torch.randn(6, 3, 8, 8), batch_size=2)
    assert len(asked) == 2


def test_a_model_that_keeps_what_it_sees_keeps_tensors():
    class Keeping(Branching):
        def forward(self, x):
            self.last = super().forward(x)
            return self.last

    net = Keeping("nothing").eval()
    reading = Reading([net], torch.randn(4, 3, 8, 8))
    reading.advance("head")
    assert reading.models != [net] and type(net.last) is torch.Tensor


def test_a_training_model_keeps_its_mode_and_statistics():
    net = made(residual).train()
    net.layer1.eval()
    modes = [part.training for part in net.modules()]
    before = copy.deepcopy(net.state_dict())
    reading = Reading([net], torch.randn(4, 3, 16, 16))
    reading.advance("linear")
    assert [part.training for part in net.modules()] == modes
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_plan_and_its_compression_read_the_images_a_few_times(monkeypatch):
    """However many layers there are."""
    read = []

    class Noting(torch.utils.data.Dataset):
        def __len__(self):
            return 32

        def __getitem__(self, index):
            read.append(index)
            generator = torch.Generator().manual_seed(index)
            return torch.randn(3, 16, 16, generator=generator)

    for room in (planning, compression):
        monkeypatch.setattr(room, "STEPS", Steps(solver=1, fit=1))
    monkeypatch.setattr(planning, "FACTORS", (1.5, 4.0))
    net, data = made(residual), DataLoader(Noting(), batch_size=16)
    plan = cpnb.plan(net, torch.randn(1, 3, 16, 16), data, multiplies=0.5, progress=False)
    assert len(plan.ranks) > 2 and len(read) <= 5 * 32
    read.clear()
    cpnb.compress(net, plan, data, progress=False)
    assert len(read) <= 5 * 32
