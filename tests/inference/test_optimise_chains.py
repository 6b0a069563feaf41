"""Which layers `optimize_for_inference` draws together: only what nothing else depends on."""

import warnings

import pytest
import torch
from fusing import assert_repeats, factored
from torch import nn

from cpnb.inference.fused import choice, native
from cpnb.inference.optimise import optimize_for_inference
from cpnb.layers.cp import CPConv2d

pytestmark = pytest.mark.usefixtures("short_measurements")


class Branching(nn.Sequential):
    """Its forward uses the convolution's output twice; the neighbours alone do not show that."""

    def forward(self, x):
        maps = self[0](x)
        return self[1](maps) + maps


def test_a_second_use_of_maps_is_respected():
    net = Branching(factored(6, 4, 8, 3), nn.ReLU()).eval()
    fast = optimize_for_inference(net, torch.randn(2, 4, 9, 9))
    assert [c.names for c in fast.report.choices] == [["0"]]
    assert_repeats(fast, net, torch.randn(2, 4, 9, 9))


class Wrapped:
    """An output whose tensors nobody can find."""

    def __init__(self, maps):
        self.maps = maps


def test_nothing_is_fused_where_the_output_cannot_be_compared():
    class Model(Branching):
        def forward(self, x):
            return Wrapped(super().forward(x))

    net, x = Model(factored(6, 4, 8, 3), nn.ReLU()).eval(), torch.randn(2, 4, 9, 9)
    fast = optimize_for_inference(net, x)
    assert [c.names for c in fast.report.choices] == [["0"]]
    torch.testing.assert_close(fast(x).maps, net(x).maps, rtol=1e-5, atol=1e-5)


def test_a_nested_part_that_somebody_listens_to_is_left_whole():
    inner = nn.Sequential(factored(3, 4, 6, 3))
    seen = []
    inner.register_forward_hook(lambda module, args, output: seen.append(output))
    net = nn.Sequential(inner, nn.ReLU()).eval()
    fast = optimize_for_inference(net, torch.randn(2, 4, 8, 8))
    seen.clear()
    x = torch.randn(2, 4, 8, 8)
    assert_repeats(fast, net, x)
    fused, plain = seen
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4)
    assert bool((plain < 0).any())  # the ReLU behind it was not drawn in


def positive(*args):
    """A factored layer whose outputs for images from 0 to 1 are all positive."""
    layer = factored(*args)
    for part in layer.children():
        part.weight.data.abs_()
    layer.expand.bias.data.abs_()
    return layer


class AndTwice(nn.Module):
    """Uses the inner maps behind the back of the ``nn.Sequential`` that makes them."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Sequential(positive(6, 4, 8, 3)), nn.ReLU())

    def forward(self, x):
        maps = self.body[0](x)
        return self.body[1](maps) - 2 * maps


def test_a_second_use_that_the_example_does_not_show():
    for net in (Branching(positive(6, 4, 8, 3), nn.ReLU()), AndTwice()):
        fast = optimize_for_inference(net.eval(), torch.rand(2, 4, 9, 9))  # the ReLU does nothing
        assert_repeats(fast, net, torch.randn(2, 4, 9, 9) - 1)


def test_a_model_that_cannot_go_on_with_nan():
    class Checked(Branching):
        def forward(self, x):
            maps = self[0](x)
            if maps.isnan().any():
                raise ArithmeticError("NaN")
            return self[1](maps) + maps

    net = Checked(factored(6, 4, 8, 3), nn.ReLU()).eval()
    fast = optimize_for_inference(net, torch.randn(2, 4, 9, 9))
    assert [c.names for c in fast.report.choices] == [["0"]]
    assert_repeats(fast, net, torch.randn(2, 4, 9, 9))


def test_labels_cannot_tell_of_a_second_use():
    class Labelled(Branching):
        def forward(self, x):
            return super().forward(x) > 1e9  # False, and so for NaN

    net = Labelled(positive(6, 4, 8, 3), nn.ReLU()).eval()
    fast = optimize_for_inference(net, torch.rand(1, 4, 9, 9))
    assert [c.names for c in fast.report.choices] == [["0"]]
    assert "not fused with what follows" in str(fast.report)


def test_what_a_model_remembers_is_of_its_inputs():
    class Peak(nn.Sequential):
        peak = torch.zeros(())

        def forward(self, x):
            maps = self[0](x)
            self.peak = torch.maximum(self.peak, maps.max())
            return self[1](maps)

    net = Peak(factored(6, 4, 8, 3), nn.ReLU()).eval()
    assert optimize_for_inference(net, torch.randn(2, 4, 9, 9)).peak.isfinite()


def test_an_output_of_another_length_is_not_the_same():
    class Found(Branching):
        calls = 0

        def forward(self, x):
            type(self).calls += 1
            return [super().forward(x)] * self.calls

    with pytest.warns(UserWarning, match="not deterministic"):
        optimize_for_inference(Found(factored(6, 4, 8, 3), nn.ReLU()), torch.randn(2, 4, 9, 9))


def test_without_a_compiler_one_warning_though_nothing_is_fused(monkeypatch):
    def none():
        raise native.KernelUnavailable("there is no C++ compiler")

    monkeypatch.setattr(native, "library", none)
    net = Branching(factored(6, 4, 8, 3), nn.ReLU()).eval()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        optimize_for_inference(net, torch.randn(2, 4, 9, 9))
    assert sum(w.category is UserWarning for w in told) == 1


def test_a_subclass_that_does_something_else_is_left_alone():
    class Doubled(nn.Identity):
        def forward(self, x):
            return 2 * x

    class Negated(CPConv2d):
        def forward(self, x):
            return -super().forward(x)

    net = nn.Sequential(factored(6, 4, 8, 3), Doubled(), nn.ReLU(), factored(6, 8, 8, 3)).eval()
    net[3].__class__ = Negated
    fast = optimize_for_inference(net, torch.randn(2, 4, 9, 9))
    assert [c.names for c in fast.report.choices] == [["0"]]
    assert_repeats(fast, net, torch.randn(2, 4, 9, 9))


def test_terms_that_cancel_leave_the_model_as_it_is(monkeypatch):
    """Where float32 shows no output but rounding, no path repeats another."""
    monkeypatch.setattr(choice, "_look", lambda module, x: 1.0 if module.path == "dense" else 9.0)
    layer = factored(6, 4, 8, 3)
    with torch.no_grad():
        for part in (layer.reduce, layer.vertical, layer.horizontal):
            part.weight[3:] = part.weight[:3]
        layer.expand.weight[:, 3:] = -layer.expand.weight[:, :3]
        layer.expand.weight *= 1e5
        layer.expand.bias.zero_()
        layer.reduce.weight *= 1 + 1e-6 * torch.randn_like(layer.reduce.weight)
    net = nn.Sequential(layer, nn.ReLU())
    x = torch.randn(2, 4, 9, 9)
    with pytest.warns(UserWarning, match="left as it was, since optimised .* terms .* cancel"):
        fast = optimize_for_inference(net, x)
    assert torch.equal(fast(x), net(x)) and "terms" in str(fast.report)
