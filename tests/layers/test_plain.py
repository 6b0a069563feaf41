"""Which layers are taken: the weight that the layer uses, or a refusal that says what to do."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

import cpnb
from cpnb.layers.cp import CPConv2d
from cpnb.layers.factored import FactoredConv2d
from cpnb.layers.jaderberg import VerticalHorizontal
from cpnb.layers.plain import own_weight, plain
from cpnb.layers.svd import SVDLinear

EXACT = {"method": "jaderberg", "scheme": 1}  # at rank d², by ALS of matrices
pytestmark = pytest.mark.filterwarnings("ignore:layer '0' at rank")


class Same(nn.Conv2d):
    """Pads in forward, as ports of EfficientNet do."""

    def forward(self, x):
        return super().forward(F.pad(x, (1, 1, 1, 1)))


class Standardised(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean(), bias)


class Called(nn.Conv2d):
    def __call__(self, x):
        return super().__call__(x) + 1


class Lora(nn.Linear):
    def forward(self, x):
        return super().forward(x) + x.sum(-1, keepdim=True)


class Tagged(nn.Conv2d):
    """Computes as its base does."""

    stage = 2


def full_rank(layer, x):
    """The model's output and that of its copy with all singular values kept."""
    net = nn.Sequential(layer)
    small = cpnb.decompose(net, {"0": 9}, method="jaderberg")
    assert isinstance(small[0], VerticalHorizontal)
    with torch.no_grad():
        return small.eval()(x), net.eval()(x)


@pytest.mark.parametrize("kind", [Same, Standardised, Called, torch.ao.nn.qat.Conv2d])
@pytest.mark.parametrize("method", ["nls", "jaderberg", "tucker"])
def test_a_convolution_that_does_more_is_refused(kind, method):
    own = {"qconfig": torch.ao.quantization.default_qat_qconfig} if "torch" in str(kind) else {}
    conv = kind(3, 4, 3, **own)
    net = nn.Sequential(conv)
    message = rf"layer '0' must compute as nn.Conv2d does, got .*\.{kind.__name__} with a"
    with pytest.raises(TypeError, match=message) as told:
        cpnb.decompose(net, {"0": 2 if method != "tucker" else (2, 2)}, method=method)
    assert "put a plain nn.Conv2d in its place" in str(told.value)
    with pytest.raises(TypeError, match="must compute as nn.Conv2d"):
        CPConv2d.from_conv(conv, 2)
    with pytest.raises(TypeError, match="must compute as nn.Conv2d"):
        VerticalHorizontal.from_conv(conv, 2)
    with pytest.raises(TypeError, match="must compute as nn.Conv2d"):
        cpnb.get_convolution(net, "0")


def test_a_linear_layer_that_does_more_is_refused():
    with pytest.raises(TypeError, match="compute as nn.Linear does, got test_plain.Lora with a"):
        cpnb.decompose(nn.Sequential(Lora(4, 5)), {"0": 2}, method="svd")
    with pytest.raises(TypeError, match="linear must compute as nn.Linear"):
        SVDLinear.from_linear(Lora(4, 5), 2)


def test_a_forward_of_one_layer_alone_is_refused():
    conv = nn.Conv2d(3, 4, 3)
    conv.forward = lambda x: 2 * nn.Conv2d.forward(conv, x)
    with pytest.raises(TypeError, match="got Conv2d with a forward of its own"):
        cpnb.decompose(nn.Sequential(conv), {"0": 2})


def test_a_subclass_that_computes_the_same_is_taken():
    torch.testing.assert_close(*full_rank(Tagged(3, 4, 3), torch.randn(2, 3, 8, 8)))


@pytest.mark.parametrize(
    "layer,message",
    [
        (torch.ao.nn.quantized.Conv2d, r"Conv2d, got torch\.ao\.nn\.quantized\.modules\.conv\.C"),
        (nn.LazyConv2d, "must have weights, got LazyConv2d, which has none before the model has r"),
        (nn.Conv1d, "must be an nn.Conv2d, got Conv1d"),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_other_layers_are_named_in_full(layer, message):
    made = layer(4, 3) if layer is nn.LazyConv2d else layer(3, 4, 3)
    with pytest.raises(TypeError, match=message):
        cpnb.decompose(nn.Sequential(made), {"0": 2})


def test_lazy_linear_layers_are_run_first():
    net = nn.Sequential(nn.LazyLinear(5))
    with pytest.raises(TypeError, match="must have weights, got LazyLinear"):
        cpnb.decompose(net, {"0": 2}, method="svd")
    net(torch.randn(2, 6))
    assert cpnb.decompose(net, {"0": 2}, method="svd")[0].in_features == 6


HOOKED = {
    "remove_spectral_norm": nn.utils.spectral_norm,
    "remove_weight_norm": nn.utils.weight_norm,
    "prune.remove": lambda conv: prune.l1_unstructured(conv, "weight", amount=0.5),
}


@pytest.mark.parametrize("remover", HOOKED)
@pytest.mark.parametrize("method", ["als", "jaderberg"])
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_weights_that_a_hook_computes_are_refused(remover, method):
    net = nn.Sequential(HOOKED[remover](nn.Conv2d(3, 4, 3)))
    with torch.no_grad():
        net(torch.randn(1, 3, 8, 8))
        for parameter in net.parameters():  # the weight of the last run is stale now
            parameter.mul_(2)
    with pytest.raises(TypeError, match=f"weights that a hook computes .* call .*{remover} on it"):
        cpnb.decompose(net, {"0": 2}, method=method)
    with pytest.raises(TypeError, match=remover):
        CPConv2d.from_conv(net[0], 2)


def test_a_weight_that_is_set_from_outside_is_refused():
    conv = nn.Conv2d(3, 4, 3)
    value = conv.weight.detach()
    del conv.weight
    conv.weight = value
    with pytest.raises(TypeError, match="got a weight that is no parameter but set from outside"):
        cpnb.decompose(nn.Sequential(conv), {"0": 2})


PARAMETRIZED = {
    "spectral": parametrizations.spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "bias": lambda conv: parametrize.register_parametrization(conv, "bias", nn.Softplus()) or conv,
}


@pytest.mark.parametrize("name", PARAMETRIZED)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.filterwarnings("ignore:layer '0'. .*parametrizations")
def test_a_parametrized_weight_is_that_of_evaluation_and_keeps_its_state(name, training):
    conv = PARAMETRIZED[name](nn.Conv2d(3, 4, 3)).train(training)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.add_(torch.randn_like(parameter))
    before = copy.deepcopy(conv.state_dict())
    dense = plain(conv)
    assert type(dense) is nn.Conv2d and dense.training is training
    net = nn.Sequential(conv)
    small = cpnb.decompose(net, {"0": 9}, method="jaderberg")
    assert all(torch.equal(value, before[key]) for key, value in conv.state_dict().items())
    assert conv.training is training and conv.parametrizations.training is training
    assert all(p.requires_grad for p in small.parameters())
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(small.eval()(x), net.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:layer '0'. .*parametrizations")
def test_frozen_parametrized_weights_stay_frozen():
    conv = parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    for key, parameter in conv.named_parameters():
        parameter.requires_grad_(key == "bias")
    small = cpnb.decompose(nn.Sequential(conv), {"0": 2})
    trained = [key for key, p in small.named_parameters() if p.requires_grad]
    assert trained == ["0.expand.bias"]


def test_a_weight_of_chance_is_refused():
    class Noisy(nn.Module):
        def forward(self, weight):
            return weight + torch.randn_like(weight)

    conv = nn.Conv2d(3, 4, 3)
    parametrize.register_parametrization(conv, "weight", Noisy())
    with pytest.raises(TypeError, match="must have one weight, got another each time"):
        cpnb.decompose(nn.Sequential(conv), {"0": 2})


def test_options_that_were_set_afterwards_are_followed():
    conv = nn.Conv2d(3, 4, 3, stride=2)
    conv.stride, conv.padding, conv.dilation, conv.padding_mode = 1, [2, 1], 2, "zeros"
    torch.testing.assert_close(*full_rank(conv, torch.randn(2, 3, 9, 9)))


def test_weights_and_options_that_contradict_each_other_are_refused():
    conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
    conv.padding = (2, 2)  # which PyTorch does not follow in this mode
    with pytest.raises(ValueError, match=r"layer '0' pads by \[1, 1, 1, 1\] in mode 'reflect'"):
        cpnb.decompose(nn.Sequential(conv), {"0": 2})
    conv = nn.Conv2d(3, 4, 3)
    conv.weight = nn.Parameter(conv.weight[:2])
    with pytest.raises(ValueError, match=r"has weights of shape \(2, 3, 3, 3\), but its in_chann"):
        cpnb.decompose(nn.Sequential(conv), {"0": 2})
    with pytest.raises(
        TypeError, match="real floating-point weights in memory, got torch.complex64"
    ):
        cpnb.decompose(nn.Sequential(nn.Conv2d(3, 4, 3, dtype=torch.complex64)), {"0": 2}, "tucker")
    with pytest.raises(TypeError, match="on meta"):
        cpnb.decompose(nn.Sequential(nn.Conv2d(3, 4, 3, device="meta")), {"0": 2})


def test_parts_of_a_factored_layer_are_read_as_they_compute():
    small = cpnb.decompose(nn.Sequential(nn.Conv2d(3, 4, 3)), {"0": 2})
    part = small[0].expand
    parametrize.register_parametrization(part, "weight", nn.Tanh())
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(small[0].to_conv()(x), small(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match="got a parametrized ParametrizedConv2d; call torch.nn.ut"):
        own_weight(part)
    parametrize.remove_parametrizations(part, "weight")
    assert own_weight(part) is part.weight
    prune.l1_unstructured(part, "weight", amount=0.5)
    with torch.no_grad():
        part.weight_orig.mul_(2)  # `weight` is that of before
    with pytest.raises(TypeError, match="prune.remove"):
        small[0].to_conv()


def test_a_subclass_of_a_rivals_layer_that_does_more_is_not_taken_apart():
    class Doubled(VerticalHorizontal):
        def forward(self, x):
            return 2 * super().forward(x)

    assert VerticalHorizontal.from_conv(nn.Conv2d(3, 4, 3), 2).as_sequential() is not None
    assert Doubled.from_conv(nn.Conv2d(3, 4, 3), 2).as_sequential() is None
    assert issubclass(Doubled, FactoredConv2d)
