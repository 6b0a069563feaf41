"""What a factored layer shows of the layer that it stands for."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import cpnb

WAYS = {
    "nls": (2, {}),
    "greedy": (2, {}),
    "jaderberg": (3, {}),
    "jaderberg, scheme 1": (2, {"scheme": 1}),
    "biclustering": (1, {"clusters": (1, 2)}),
    "biclustering, svd": ((1, 2), {"clusters": (3, 1), "blocks": "svd"}),
    "monochromatic": (2, {}),
    "tucker": ((2, 3), {}),
}
SHOWN = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
    "padding_mode",
)  # fmt: skip
# Of the files that ship and that users have saved.
PARTS = {
    "nls": ("reduce", "vertical", "horizontal", "expand"),
    "greedy": ("reduce", "vertical", "horizontal", "expand"),
    "jaderberg": ("first", "last"),
    "jaderberg, scheme 1": ("first", "horizontal", "last"),
    "biclustering": ("first", "space", "last"),
    "biclustering, svd": ("first", "space", "last"),
    "monochromatic": ("first", "last"),
    "tucker": ("first", "core", "last"),
}
BUFFERS = {
    "biclustering": ("inputs", "order", "back"),
    "biclustering, svd": ("inputs", "order", "back"),
    "monochromatic": ("order", "back"),
}
CONVOLUTIONS = [
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 1), "dilation": (1, 2)},
    {"kernel_size": 3, "padding": "same", "padding_mode": "circular", "bias": False},
]
pytestmark = pytest.mark.filterwarnings("ignore:layer .* at rank")


def small(way, conv):
    rank, options = WAYS[way]
    return cpnb.decompose(nn.Sequential(conv), {"0": rank}, way.split(",")[0], **options)[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_options_bias_and_rebuilt_weight_are_shown(way, options):
    conv = nn.Conv2d(3, 4, **options, dtype=torch.bfloat16)
    layer = small(way, conv)
    assert {name: getattr(layer, name) for name in SHOWN} == {n: getattr(conv, n) for n in SHOWN}
    assert layer.weight.dtype == torch.bfloat16 and layer.weight.shape == conv.weight.shape
    assert torch.equal(layer.weight, layer.to_conv().weight)
    if conv.bias is None:
        assert layer.bias is None
    else:
        assert torch.equal(layer.bias, conv.bias)
    biases = [] if conv.bias is None else [f"{PARTS[way][-1]}.bias"]
    assert {*layer.state_dict()} == {*(f"{part}.weight" for part in PARTS[way]), *biases, *(
        BUFFERS.get(way, ()))}  # fmt: skip
    assert {*dict(layer.named_parameters())} == {*layer.state_dict()} - {*BUFFERS.get(way, ())}


@pytest.mark.parametrize("way", WAYS)
def test_the_weight_follows_training_and_has_gradients(way):
    layer = small(way, nn.Conv2d(3, 4, 3))
    layer.weight.square().sum().backward()
    assert all(p.grad is not None for n, p in layer.named_parameters() if "bias" not in n)
    with torch.no_grad():
        before = layer.weight
        next(layer.children()).weight.mul_(2)
        torch.testing.assert_close(layer.weight, 2 * before)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_rebuilt_cannot_be_set(way):
    layer = small(way, nn.Conv2d(3, 4, 3)).eval()
    before = copy.deepcopy(layer.state_dict())
    for name in ("weight", "bias"):
        with pytest.raises(AttributeError, match=f"{name} of a .* cannot be set: it is rebuilt fr"):
            setattr(layer, name, nn.Parameter(getattr(layer, name).detach()))
    with pytest.raises(AttributeError, match="to fuse a batch normalisation or the like, do so be"):
        fuse_conv_bn_eval(layer, nn.BatchNorm2d(4).eval())
    with pytest.raises(AttributeError):
        layer.stride = (2, 2)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def test_a_linear_layer_shows_its_sizes_weight_and_bias():
    linear = nn.Linear(7, 5)
    layer = cpnb.decompose(nn.Sequential(linear), {"0": 5}, "svd")[0]
    assert (layer.in_features, layer.out_features) == (7, 5)
    torch.testing.assert_close(layer.weight, linear.weight)
    assert layer.bias is layer.last.bias and torch.equal(layer.bias, linear.bias)
    with pytest.raises(AttributeError, match="weight of a SVDLinear cannot be set"):
        layer.weight = nn.Parameter(torch.zeros(5, 7))


def test_a_patch_embedding_may_ask_for_the_dtype():
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Conv2d(3, 8, 4, stride=4)

        def forward(self, x):
            return self.proj(x.to(self.proj.weight.dtype)).flatten(2)

    embedding = cpnb.decompose(Patches(), {"proj": 4})
    assert embedding(torch.randn(2, 3, 8, 8, dtype=torch.float64)).shape == (2, 8, 4)


@pytest.mark.parametrize("way", WAYS)
def test_one_image_without_its_batch_axis(way):
    layer = small(way, nn.Conv2d(3, 4, 3, padding=1))
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(layer(x[0]), layer(x)[0])
    assert layer(x[:0]).shape == (0, 4, 6, 6)


@pytest.mark.parametrize("way", WAYS)
def test_other_memory_layouts_are_rebuilt_too(way):
    layer = small(way, nn.Conv2d(3, 4, 3))
    before = layer.to_conv().weight
    torch.testing.assert_close(layer.to(memory_format=torch.channels_last).weight, before)


ENCODER = {"batch_first": True, "dim_feedforward": 24, "dropout": 0.0}


@pytest.mark.parametrize("name", ["linear1", "linear2"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:products that are")
def test_a_transformer_calls_its_factored_layer_in_evaluation_too(name, masked):
    layer = nn.TransformerEncoderLayer(16, 4, **ENCODER)
    net = nn.TransformerEncoder(layer, 2).eval()
    x, mask = torch.randn(3, 5, 16), None
    if masked:
        mask = torch.arange(5) >= torch.tensor([[5], [3], [4]])
    full = cpnb.decompose(net, {f"layers.0.{name}": 16}, "svd")
    part, called = getattr(full.layers[0], name), []
    part.last.forward = lambda x, run=part.last.forward: called.append(1) or run(x)
    with torch.inference_mode():  # in which PyTorch else reads the weights alone
        expected = net(x, src_key_padding_mask=mask)
        torch.testing.assert_close(full(x, src_key_padding_mask=mask), expected)
    assert called
    low = cpnb.decompose(net, {f"layers.0.{name}": 2}, "svd")
    saved = 5 * (16 * 24 - 2 * (16 + 24))
    assert cpnb.count_multiplies(net, x) - cpnb.count_multiplies(low, x) == saved


def test_a_projection_that_attention_never_calls_is_refused():
    net = nn.TransformerEncoderLayer(16, 4, **ENCODER)
    with pytest.raises(TypeError, match="layer 'self_attn.out_proj' must be called by the model"):
        cpnb.decompose(net, {"self_attn.out_proj": 4}, "svd")
