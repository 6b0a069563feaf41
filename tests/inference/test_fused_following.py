"""A fused layer follows what becomes of its weights, and of what is asked of it."""

import copy

import pytest
import torch
from fusing import both, compiled, factored
from torch import nn
from torch.autograd import forward_ad

from cpnb import count_multiplies
from cpnb.inference.fused.module import PATHS, FusedConv


@both
def test_autocast_is_followed(path):
    layer, x = factored(6, 4, 8, 3), torch.randn(2, 4, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        assert FusedConv([layer], path)(x).dtype == layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize("path", [*PATHS[:-1], compiled])
def test_gradients_of_the_input_flow(path):
    layers = [factored(8, 3, 4, 3), nn.ReLU()]
    x = torch.randn(2, 3, 9, 8, requires_grad=True)
    nn.Sequential(*layers)(x).square().sum().backward()
    other = x.detach().clone().requires_grad_()
    FusedConv(copy.deepcopy(layers), path)(other).square().sum().backward()
    torch.testing.assert_close(other.grad, x.grad, rtol=1e-4, atol=1e-4)


@both
def test_a_copy_does_the_same_and_nothing_trains(path):
    module, x = FusedConv([factored(8, 3, 4, 3), nn.ReLU()], path), torch.randn(2, 3, 9, 8)
    assert torch.equal(copy.deepcopy(module)(x), module(x))
    assert not module.train().layers.training


def pair(path):
    """A fused module and its layers one by one, on copies of the same weights."""
    layers = [factored(8, 3, 4, 3), nn.ReLU()]
    return FusedConv(copy.deepcopy(layers), path), nn.Sequential(*layers).requires_grad_(False)


@both
@pytest.mark.parametrize("how", ["in place", "replaced", "loaded", "assigned", "another part"])
def test_a_changed_weight_is_followed(path, how):
    (module, plain), x = pair(path), torch.randn(2, 3, 9, 8)
    module(x)
    for part in (plain[0].vertical, plain[0].expand):
        part.weight.mul_(3)
        part.weight += 1
    ours, theirs = module.layers[0], plain[0]
    for name in ("vertical", "expand"):
        if how == "in place":
            getattr(ours, name).weight.copy_(getattr(theirs, name).weight)
        elif how == "replaced":
            getattr(ours, name).weight = getattr(theirs, name).weight
        elif how == "another part":
            setattr(ours, name, getattr(theirs, name))
    if how in ("loaded", "assigned"):
        named = {f"layers.{name}": weight for name, weight in plain.state_dict().items()}
        module.load_state_dict(named, assign=how == "assigned")
    torch.testing.assert_close(module(x), plain(x), rtol=1e-5, atol=1e-5)


@both
def test_a_bias_that_was_not_there_is_followed(path):
    module = FusedConv([factored(8, 3, 4, 3, bias=False)], path)
    x = torch.randn(2, 3, 9, 8)
    before = module(x)
    module.layers[0].expand.bias = nn.Parameter(torch.ones(4))
    torch.testing.assert_close(module(x), before + 1, rtol=1e-5, atol=1e-5)


@both
def test_layers_that_are_no_chain_any_more_run_one_by_one(path):
    layers = [factored(8, 3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1)]
    module, x = FusedConv(layers, path), torch.randn(2, 3, 9, 8)
    nn.utils.parametrizations.weight_norm(module.layers[2])
    torch.testing.assert_close(module(x), nn.Sequential(*layers)(x), rtol=1e-5, atol=1e-5)
    assert module(x).shape[1] == 5


@both
def test_loaded_in_inference_mode(path):
    x = torch.randn(2, 3, 9, 8)
    with torch.inference_mode():
        module, plain = pair(path)
        module(x)
        plain[0].expand.weight.mul_(3)
        module.load_state_dict({f"layers.{k}": v for k, v in plain.state_dict().items()})
        torch.testing.assert_close(module(x), plain(x), rtol=1e-5, atol=1e-5)


@both
def test_derivatives_by_weights_given_for_a_call(path):
    (module, plain), x = pair(path), torch.randn(2, 3, 9, 8)
    weights, along = dict(plain.named_parameters()), {}
    for name, weight in weights.items():
        along[name] = torch.randn_like(weight)

    def output(net, prefix, weights):
        named = {prefix + name: weight for name, weight in weights.items()}
        return torch.func.functional_call(net, named, (x,))

    expected = torch.func.jvp(lambda w: output(plain, "", w), (weights,), (along,))[1]
    got = torch.func.jvp(lambda w: output(module, "layers.", w), (weights,), (along,))[1]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    with forward_ad.dual_level():
        dual = {name: forward_ad.make_dual(w, along[name]) for name, w in weights.items()}
        got = forward_ad.unpack_dual(output(module, "layers.", dual)).tangent
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@both
def test_gradients_of_weights_flow_where_they_are_wanted(path):
    (module, plain), x = pair(path), torch.randn(2, 3, 9, 8)
    for net in (module, plain):
        net.requires_grad_(True)(x).square().sum().backward()
    for ours, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


@both
def test_tangents_of_the_input_flow(path):
    (module, plain), x, along = pair(path), torch.randn(2, 3, 9, 8), torch.randn(2, 3, 9, 8)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, along)
        got, expected = (forward_ad.unpack_dual(net(dual)).tangent for net in (module, plain))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    by_function = torch.func.jvp(module, (x,), (along,))[1]
    torch.testing.assert_close(by_function, expected, rtol=1e-5, atol=1e-5)


@both
def test_who_listens_to_a_part_hears_it(path):
    (module, plain), x = pair(path), torch.randn(2, 3, 9, 8)
    assert count_multiplies(module, x) == count_multiplies(plain, x) > 0
    heard = []
    hook = module.layers[0].reduce.register_forward_hook(lambda *call: heard.append(call[2]))
    module(x)
    torch.testing.assert_close(heard, [plain[0].reduce(x)], rtol=1e-5, atol=1e-5)
    hook.remove()
    module(x)
    assert len(heard) == 1


@both
def test_weights_made_in_inference_mode(path):
    x = torch.randn(2, 3, 9, 8)
    with torch.inference_mode():
        module, plain = pair(path)
        torch.testing.assert_close(module(x), plain(x), rtol=1e-5, atol=1e-5)
