"""What `optimize_for_inference` leaves alone, and says so; and how all paths lead to one layer."""

import copy

import pytest
import torch
from fusing import assert_repeats, both, factored
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import cpnb
from cpnb.inference.fused.chain import Chain
from cpnb.inference.fused.module import FusedConv

pytestmark = pytest.mark.usefixtures("short_measurements")


def x(seed: int = 0):
    return torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(seed))


def net():
    """A factored layer with a link that may be drawn in, and another factored layer."""
    torch.manual_seed(0)
    parts = [factored(6, 4, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 1), factored(3, 6, 5, 3)]
    return nn.Sequential(*parts).eval()


def names(fast):
    return [choice.names for choice in fast.report.choices]


def test_all_of_it_is_fused_where_nothing_is_odd():
    fast = cpnb.optimize_for_inference(net(), x())
    assert names(fast) == [["0", "1", "2"], ["3"]] and not fast.report.remarks


class Same(nn.Conv2d):
    def forward(self, x):
        return super().forward(nn.functional.pad(x, (1, 0, 1, 0)))


class Weighted(nn.Module):
    """Sets the weight of its convolution before each run, as nets that make weights do."""

    def __init__(self):
        super().__init__()
        self.body = net()
        self.kernel = nn.Parameter(self.body[2].weight.detach().clone())
        del self.body[2].weight

    def forward(self, x):
        self.body[2].weight = self.kernel * x.mean()
        return self.body(x)


def with_weights(norm):
    def change(model):
        norm(model[2])

    return change


ODD = {
    "a subclass": lambda model: setattr(model[2], "__class__", Same),
    "spectral norm": with_weights(parametrizations.spectral_norm),
    "weight norm": with_weights(parametrizations.weight_norm),
    "spectral norm by hooks": with_weights(spectral_norm),
    "weight norm by hooks": with_weights(weight_norm),
    "pruned": with_weights(lambda conv: prune.l1_unstructured(conv, "weight", amount=0.5)),
    "hooked": lambda model: model[2].register_forward_hook(lambda m, x, y: y * (y > 0)),
    "hooked before": lambda model: model[2].register_forward_pre_hook(lambda m, x: (2 * x[0],)),
}


def ready(model):
    """Weights that hooks compute can be copied once they were computed without a history."""
    with torch.no_grad():
        model(x())


@pytest.mark.parametrize("odd", ODD)
def test_a_convolution_that_computes_more_is_left_with_a_reason(odd):
    model = net()
    ODD[odd](model)
    ready(model)
    fast = cpnb.optimize_for_inference(model, x())
    assert names(fast) == [["0", "1"], ["3"]] and type(fast[2]) is type(model[2])
    assert "2 is left as it is: " in str(fast.report)
    assert_repeats(fast, model, x(1))


@pytest.mark.parametrize("odd", [name for name in ODD if name != "a subclass"])
def test_factors_that_compute_more_are_left_with_a_reason(odd):
    model = net()
    ODD[odd](nn.ModuleList([None, None, model[3].expand]))
    ready(model)
    fast = cpnb.optimize_for_inference(model, x())
    assert names(fast) == [["0", "1", "2"]]
    assert "3 is left as it is: " in str(fast.report)
    assert_repeats(fast, model, x(1))


def test_a_forward_in_place_of_a_layers_own_is_kept():
    model = net()
    model[1].forward = torch.sigmoid
    fast = cpnb.optimize_for_inference(model, x())
    assert names(fast) == [["0"], ["2"], ["3"]]
    assert "1 is left as it is: its forward was replaced" in str(fast.report)
    assert_repeats(fast, model, x(1))


def test_weights_that_the_model_sets_before_each_run():
    model = Weighted().eval()
    fast = cpnb.optimize_for_inference(model, x() + 1)
    assert "body.2 is left as it is: its weight is no parameter" in str(fast.report)
    assert_repeats(fast, model, x(1) - 3)


def test_a_replaced_part_of_a_factored_layer():
    model = net()
    model[3].expand = nn.Sequential(model[3].expand, nn.Tanh())
    fast = cpnb.optimize_for_inference(model, x())
    assert "3 is left as it is: its expand is a Sequential" in str(fast.report)
    assert_repeats(fast, model, x(1))


def test_a_chain_begins_with_a_plain_layer():
    conv = Same(4, 5, 3)
    for front in (conv, parametrizations.spectral_norm(nn.Conv2d(4, 5, 3))):
        with pytest.raises(ValueError, match="a chain must begin with a plain layer"):
            Chain([front])
        with pytest.raises(ValueError, match="a chain must begin with a plain layer"):
            FusedConv([front], "portable")


@both
def test_a_front_that_is_parametrized_later_runs_as_it_is(path):
    layer = factored(6, 4, 8, 3)
    fused = FusedConv([copy.deepcopy(layer), nn.ReLU()], path)
    fused(x())
    with torch.no_grad():
        parametrizations.spectral_norm(fused.layers[0].expand)
        for _ in range(2):  # and its buffers are no parameters
            got = fused(x())
            torch.testing.assert_close(got, fused.layers(x()), rtol=1e-5, atol=1e-5)
            fused.layers[0].expand.parametrizations.weight[0]._u.copy_(torch.ones(8) / 8**0.5)


# Optimised already


def test_an_optimised_model_comes_back_as_it_is():
    fast = cpnb.optimize_for_inference(net(), x())
    with pytest.warns(
        UserWarning, match="optimised already.*optimise the model that it was made of"
    ):
        again = cpnb.optimize_for_inference(fast, x())
    assert again is not fast and names(again) == names(fast)
    assert "optimised already" in str(again.report) and "optimised al" not in str(fast.report)
    assert_repeats(again, fast, x(1))
    layer = cpnb.optimize_for_inference(factored(6, 4, 8, 3), x())
    with pytest.warns(UserWarning, match="optimised already"):
        assert_repeats(cpnb.optimize_for_inference(layer, x()), layer, x(1))


def test_what_is_new_beside_an_optimised_part_is_optimised():
    done = cpnb.optimize_for_inference(net(), x())
    model = nn.Sequential(done, nn.ReLU(), factored(4, 5, 6, 3)).eval()
    fast = cpnb.optimize_for_inference(model, x())
    assert names(fast) == [["2"]]
    assert_repeats(fast, model, x(1))


def test_an_optimised_model_is_measured_in_both_layouts():
    fast = cpnb.optimize_for_inference(net(), x())
    found = cpnb.measure_fastest({"fast": fast, "net": net()}, x(), runs=2)
    assert found.keys() == {"fast", "net"}
    assert cpnb.count_multiplies(fast, x()) > 0


# Other paths to a layer


class Paths(nn.Module):
    """Two layers, one of them under two names, both called from a plain list."""

    def __init__(self):
        super().__init__()
        self.a, self.b = factored(4, 4, 4, 3, padding=1), factored(4, 4, 4, 3, padding=1)
        self.c = self.b
        self.stack = [self.a, self.b]

    def forward(self, x):
        for layer in self.stack:
            x = torch.relu(layer(x))
        return self.c(x)


def test_all_paths_lead_to_the_fused_layer():
    model = Paths().eval()
    fast = cpnb.optimize_for_inference(model, x())
    assert names(fast) == [["a"], ["b"]]
    assert fast.c is fast.b is fast.stack[1] and isinstance(fast.stack[0], FusedConv)
    assert_repeats(fast, model, x(1))


def test_a_rivals_layer_at_two_places():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 3, padding=1)
    model = cpnb.decompose(
        nn.Sequential(conv, nn.ReLU(), conv), {"0": 5}, method="jaderberg"
    ).eval()
    fast = cpnb.optimize_for_inference(model, x())
    assert isinstance(fast[0].first, FusedConv) and fast[2] is fast[0]
    assert_repeats(fast, model, x(1))


def test_a_rivals_layer_with_a_forward_of_its_own():
    class Negated(cpnb.VerticalHorizontal):
        def forward(self, x):
            return -super().forward(x)

    layer = cpnb.VerticalHorizontal.from_conv(nn.Conv2d(4, 6, 3), 3).eval()
    layer.__class__ = Negated
    model = nn.Sequential(layer, nn.ReLU())
    fast = cpnb.optimize_for_inference(model, x())
    assert_repeats(fast, model, x(1))


def test_a_factored_layer_that_is_never_called_is_told():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.idle, self.body = factored(2, 4, 4, 3), net()

        def forward(self, x):
            return self.body(x)

    fast = cpnb.optimize_for_inference(Idle().eval(), x())
    assert "idle is left as it is: the model does not call it" in str(fast.report)
    assert ["idle"] not in names(fast)


def test_what_models_read_of_a_layer_stays_to_be_read():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = factored(4, 4, 6, 3, stride=2)

        def forward(self, x):
            assert x.shape[1] == self.proj.in_channels and self.proj.bias is not None
            y = self.proj(x.to(self.proj.weight.dtype))
            return y * self.proj.stride[0] + self.proj.out_channels + self.proj.kernel_size[0]

    model = Reads().eval()
    fast = cpnb.optimize_for_inference(model, x())
    assert isinstance(fast.proj, FusedConv)
    assert_repeats(fast, model, x(1))
    model.proj = nn.Conv2d(4, 6, 3, stride=2)
    rival = cpnb.decompose(model, {"proj": 3}, "jaderberg").eval()
    fast = cpnb.optimize_for_inference(rival, x())
    assert isinstance(fast.proj.first, FusedConv)
    assert_repeats(fast, rival, x(1))


def test_a_model_that_does_not_go_on_with_fused_layers_is_left():
    class Insists(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = factored(4, 4, 6, 3)

        def forward(self, x):
            return self.conv(x) * self.conv.rank

    model = Insists().eval()
    with pytest.warns(UserWarning, match="left as it was.*reads more of its layers"):
        fast = cpnb.optimize_for_inference(model, x())
    assert_repeats(fast, model, x(1))


def test_a_model_that_cannot_be_copied_is_told():
    model = net()
    model.seen = model(x())
    for call in (
        lambda: cpnb.optimize_for_inference(model, x()),
        lambda: cpnb.measure_fastest({"net": model}, x(), runs=1),
        lambda: cpnb.measure_latency(model, x(), channels_last=True, runs=1),
    ):
        with pytest.raises(TypeError, match="copy.deepcopy can copy, got 'seen'.*detach it"):
            call()
