"""How much each output of a layer matters to the class probabilities, and fits that know it."""

import pytest
import torch
from torch import nn

import cpnb
from cpnb.inference import compression, planning
from cpnb.training import importance, layer_fit
from cpnb.training.divergence import divergence
from cpnb.training.importance import RIDGE, output_metrics
from cpnb.training.moments import patch_moments
from cpnb.training.patches import regression


def small_net(inplace=False, groups=1):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(inplace), nn.Conv2d(6, 8, 3, groups=groups),
        nn.BatchNorm2d(8), nn.ReLU(inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip


def by_hand(total):
    total = total / total.diagonal().mean()
    return (total + RIDGE * torch.eye(len(total), dtype=total.dtype)) / (1 + RIDGE)


def test_of_logits_it_is_the_fisher_information_of_the_softmax():
    torch.manual_seed(0)
    net, images = nn.Sequential(nn.Linear(3, 4)), torch.randn(16, 3)
    chances = net(images).detach().softmax(1)
    drawn = torch.multinomial(chances, 1, generator=torch.Generator().manual_seed(0))[:, 0]
    slopes = (torch.eye(4)[drawn] - chances).double()
    (found,) = output_metrics(net, images, ["0"]).values()
    torch.testing.assert_close(found, by_hand(slopes.T @ slopes), atol=1e-6, rtol=1e-5)


def test_gradients_are_those_of_autograd_at_every_position():
    net, images = small_net(), torch.randn(5, 2, 7, 7)
    maps = net[:3](images).detach().double().requires_grad_()
    logits = net.double()[3:](maps)
    drawn = torch.multinomial(
        logits.detach().float().softmax(1), 1, generator=torch.Generator().manual_seed(0)
    )
    logits.log_softmax(1).gather(1, drawn).sum().backward()
    slopes = maps.grad.movedim(1, -1).flatten(0, 2)
    found = output_metrics(small_net(), images, ["2"])["2"]
    torch.testing.assert_close(found, by_hand(slopes.T @ slopes), atol=1e-4, rtol=1e-4)


def test_a_map_that_nobody_reads_has_the_ridge_alone():
    net = small_net()
    with torch.no_grad():
        net[2].weight[:, 3] = 0
    found = output_metrics(net, torch.randn(8, 2, 7, 7), ["0"])["0"]
    least = RIDGE / (1 + RIDGE)
    assert found[3, 3] == pytest.approx(least) and (found.diagonal() > least).sum() == 5
    assert not found[3, :3].any()


def test_layers_that_write_into_their_input_change_nothing():
    images = torch.randn(8, 2, 7, 7)
    plain, inplace = (output_metrics(small_net(how), images, ["0", "2"]) for how in (False, True))
    for name in ("0", "2"):
        torch.testing.assert_close(plain[name], inplace[name])


def test_the_model_is_left_as_it_was_and_modes_of_the_caller_do_not_matter():
    net, images = small_net().train(), torch.randn(8, 2, 7, 7)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    first = output_metrics(net.requires_grad_(False), images, ["2"])["2"]
    with torch.inference_mode():
        again = output_metrics(net, images, ["2"])["2"]
    torch.testing.assert_close(first, again)
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_no_more_images_are_read_than_are_needed(monkeypatch):
    monkeypatch.setattr(importance, "MOST", 20)
    images = torch.randn(64, 2, 7, 7)
    few, many = (output_metrics(small_net(), data, ["2"])["2"] for data in (images[:20], images))
    assert torch.equal(few, many)


class Odd(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.net, self.own = small_net(), forward

    def forward(self, x):
        return self.own(self.net, x)


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net[3:](net[2](net[1](net[0](x)).detach())),
        lambda net, x: {"boxes": net(x)},
        lambda net, x: net(x)[:, 0],
        lambda net, x: torch.zeros(len(x), 5),
        lambda net, x: net(net[0](x).exp_().mul_(0)[:, :2] + x),  # writes into what exp needs
    ],
    ids=["detached", "no logits", "no classes", "constant", "cannot be trained"],
)
def test_layers_of_which_no_gradient_tells_are_left_out(forward):
    model = Odd(forward).requires_grad_(False)
    assert output_metrics(model, torch.randn(4, 2, 7, 7), ["net.0"]) == {}


def test_a_model_may_write_into_its_images():
    plain = output_metrics(small_net(), torch.ones(4, 2, 7, 7), ["2"])["2"]
    model, images = Odd(lambda net, x: net(x.mul_(2))), torch.full((4, 2, 7, 7), 0.5)
    torch.testing.assert_close(output_metrics(model, images, ["net.2"])["net.2"], plain)
    assert (images == 0.5).all()


@pytest.mark.parametrize("groups", [1, 2])
def test_a_fit_leaves_less_of_the_error_that_matters(groups):
    net, images = small_net(groups=groups), torch.randn(64, 2, 9, 9)
    metric = output_metrics(net, images, ["2"])["2"]
    steps = layer_fit.Steps(solver=20, fit=30)
    fits = [
        layer_fit.LayerFit(net, net, "2", "nls", images, outputs).at(3, steps)
        for outputs in (metric, None)
    ]
    moments = patch_moments(net, net, "2", images, positions=256, centred=True)
    lost, whole = [0.0, 0.0], 0.0
    each = 8 // groups
    for g, group in enumerate(moments):
        part = slice(g * each, (g + 1) * each)
        kernel = net[2].weight.detach()[part].double().flatten(1)
        target, sigma = regression(kernel, group)
        weights = metric[part, part]
        whole += float((weights @ target @ sigma * target).sum())
        for k, (layer, _) in enumerate(fits):
            rest = target - layer.kernel().detach()[part].double().flatten(1)
            lost[k] += float((weights @ rest @ sigma * rest).sum())
    assert lost[0] < 0.98 * lost[1]  # one rank, two kinds of error
    if groups == 1:
        # Roots have a floor of a thousandth.
        assert fits[0][1] == pytest.approx((lost[0] / whole) ** 0.5, rel=0.02)


def test_the_curves_of_a_plan_are_of_weighed_outputs(monkeypatch):
    net, images = small_net(), torch.randn(32, 2, 9, 9)
    asked = {"multiplies": 0.99, "layers": ["2"], "progress": False}
    knowing = cpnb.plan(net, images[:1], images, **asked).layers["2"].curve
    monkeypatch.setattr(planning, "output_metrics", lambda *_: {})
    blind = cpnb.plan(net, images[:1], images, **asked).layers["2"].curve
    assert knowing.keys() == blind.keys() and all(knowing[r] != blind[r] for r in blind)


def test_no_layer_is_no_pass():
    assert output_metrics(small_net(), iter(()), []) == {}


def test_plan_and_compress_weigh_the_outputs(monkeypatch):
    """A map that nobody reads is given up first."""
    net, images = small_net(), torch.randn(64, 2, 9, 9)
    with torch.no_grad():
        net[7].weight[:, :4] = 0
    plan = cpnb.plan(net, images[:1], images, multiplies=0.99, layers=["2"], progress=False)
    plan.ranks = {"2": 3}
    knowing = divergence(cpnb.compress(net, plan, images, progress=False), net, images)
    monkeypatch.setattr(compression, "output_metrics", lambda *_: {})
    blind = divergence(cpnb.compress(net, plan, images, progress=False), net, images)
    assert knowing < 0.9 * blind  # the layers behind make up for most of either
