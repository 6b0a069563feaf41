"""Models as people have them: trained and fitted rightly, or an error that says what to do."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.data import DataLoader, TensorDataset

import cpnb
from cpnb.nets.weights import CheckpointError

QUIET = {"progress": False, "device": "cpu"}


def net(**options) -> nn.Module:
    torch.manual_seed(0)
    parts = OrderedDict(
        conv1=nn.Conv2d(2, 4, 3), relu=nn.ReLU(), conv2=nn.Conv2d(4, 6, 3, **options),
        pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=nn.Linear(6, 3),
    )  # fmt: skip
    return nn.Sequential(parts).eval()


def data(number: int = 32) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(number, 2, 9, 9, generator=generator)
    return TensorDataset(images, torch.arange(number) % 3)


def output_error(model, reference):
    with torch.no_grad():
        got, want = (part(data().tensors[0]) for part in (model, reference))
    return float((got - want).norm() / want.norm())


# Inference mode


def test_a_model_made_in_inference_mode_cannot_be_trained():
    with torch.inference_mode():
        model = net()
        small = copy.deepcopy(cpnb.decompose(model, {"conv2": 3}))
    for call in (
        lambda: cpnb.train(model, data(), 1, **QUIET),
        lambda: cpnb.gradient_weights(model, "conv2", data()),
        lambda: cpnb.reconstruct_on_data(small, model, "conv2", data(), progress=False),
        lambda: cpnb.fit_to_patches(small, model, "conv2", data()),
    ):
        with pytest.raises(
            ValueError, match=r"made in torch.inference_mode \(.*give copy.deepcopy\("
        ):
            call()
    for later in (copy.deepcopy(model), copy.deepcopy(small)):
        cpnb.train(later, data(), 1, **QUIET)
    later = copy.deepcopy(small)
    cpnb.fit_to_patches(later, model, "conv2", data())
    cpnb.reconstruct_on_data(later, model, "conv2", data(), progress=False)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_gradients_are_taken_whatever_the_mode(mode):
    (ours, theirs), reference = (net(), net()), net()
    small = cpnb.decompose(net(), {"conv2": 3})
    other = copy.deepcopy(small)
    cpnb.train(theirs, data(), 1, **QUIET)
    cpnb.reconstruct_on_data(other, reference, "conv2", data(), progress=False)
    expected = cpnb.gradient_weights(reference, "conv2", data())
    with mode():
        cpnb.train(ours, data(), 1, **QUIET)
        cpnb.reconstruct_on_data(small, reference, "conv2", data(), progress=False)
        found = cpnb.gradient_weights(reference, "conv2", data())
    assert torch.equal(ours.head.weight, theirs.head.weight)
    assert not torch.equal(ours.head.weight, net().head.weight)
    torch.testing.assert_close(small.conv2.expand.weight, other.conv2.expand.weight)
    torch.testing.assert_close(found, expected)


def test_data_made_in_inference_mode_are_trained_on():
    with torch.inference_mode():
        made = data(8)
    for given in (made, DataLoader(made, 8, collate_fn=lambda _: tuple(made.tensors))):
        model, small = net(), cpnb.decompose(net(), {"conv2": 3})
        cpnb.train(model, given, 1, batch_size=8, **QUIET)
        cpnb.reconstruct_on_data(small, net(), "conv2", given, progress=False)
        cpnb.gradient_weights(net(), "conv2", given)
        assert not torch.equal(model.head.weight, net().head.weight)


# BatchNorm, and the last batch


def normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(162, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def test_a_batch_of_one_where_there_is_batchnorm():
    with pytest.raises(
        ValueError, match="batch of one sample.*another batch_size than 8.*drop_last"
    ):
        cpnb.train(normed(), data(9), 1, batch_size=8, **QUIET)
    cpnb.train(normed(), data(9), 1, batch_size=7, **QUIET)
    cpnb.train(normed(), DataLoader(data(9), 8, drop_last=True), 1, **QUIET)
    cpnb.train(net(), data(9), 1, batch_size=8, **QUIET)  # nothing needs more than one


def test_other_errors_of_the_model_stay_its_own():
    class Fails(nn.Linear):
        def forward(self, x):
            raise ValueError("something of its own")

    with pytest.raises(ValueError, match="^something of its own$"):
        cpnb.train(nn.Sequential(nn.Flatten(), Fails(162, 3)), data(1), 1, **QUIET)


# Settings


def test_numbers_of_numpy_are_numbers(tmp_path):
    settings = {"lr": np.float32(0.01), "batch_size": np.int64(8), "seed": np.int32(3)}
    plain = {"lr": float(np.float32(0.01)), "batch_size": 8, "seed": 3}
    ours, theirs = net(), net()
    cpnb.train(ours, data(), np.int64(2), checkpoint=tmp_path / "run", **settings, **QUIET)
    cpnb.train(theirs, data(), 2, **plain, **QUIET)
    assert torch.equal(ours.head.weight, theirs.head.weight)
    rows = cpnb.train(net(), data(), 2, checkpoint=tmp_path / "run", **plain, **QUIET)
    assert len(rows) == 2
    small = cpnb.decompose(net(), {"conv2": 3})
    cpnb.reconstruct_on_data(small, net(), "conv2", data(), epochs=np.int64(1), progress=False)


def test_channels_last_is_of_images():
    flat = TensorDataset(torch.randn(8, 5), torch.arange(8) % 3)
    model = nn.Sequential(nn.Linear(5, 3))
    cpnb.train(model, flat, 1, channels_last=True, validation=flat, **QUIET)


def test_a_checkpoint_of_other_data_in_a_dataloader_is_refused(tmp_path):
    def loader(change):
        images, labels = data().tensors
        return DataLoader(TensorDataset(images + change, labels), 8)

    cpnb.train(net(), loader(0), 1, checkpoint=tmp_path / "run", **QUIET)
    cpnb.train(net(), loader(0), 1, checkpoint=tmp_path / "run", **QUIET)
    with pytest.raises(CheckpointError, match="other starting weights or training data"):
        cpnb.train(net(), loader(1), 1, checkpoint=tmp_path / "run", **QUIET)


def test_a_forward_of_ones_own_is_trained_and_kept():
    """Large kernels train by other forms, but not past what somebody put in a layer's place."""
    model = nn.Sequential(nn.Conv2d(2, 3, 9), nn.Flatten())
    calls, forward = [], model[0].forward

    def noted(x):
        calls.append(len(x))
        return forward(x)

    model[0].forward = noted
    cpnb.train(model, data(), 1, batch_size=16, **QUIET)
    assert calls == [16, 16] and model[0].forward is noted


# Fits to data


def test_a_hook_before_the_layer_runs_once():
    """As padding by a hook does: the layer is fitted to what it sees."""
    models = [net(), cpnb.decompose(net(), {"conv2": 3})]
    for model in models:
        model.conv2.register_forward_pre_hook(lambda m, x: nn.functional.pad(x[0], (1, 1, 1, 1)))
        model.conv2.register_forward_hook(lambda m, x, y: 2 * y + 1)
    for fit in (
        lambda *a: cpnb.reconstruct_on_data(*a, "conv2", data(), 20, lr=0.02, progress=False),
        lambda *a: cpnb.fit_to_patches(*a, "conv2", data()),
    ):
        small = copy.deepcopy(models[1])
        fit(small, models[0])
        assert output_error(small, models[0]) < 0.8 * output_error(models[1], models[0])


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x):
        return self.conv(20 * self.conv(x) + 3)


def test_a_layer_that_runs_twice_is_seen_twice():
    model, images = Twice(), data().tensors[0]
    with torch.no_grad():
        seen = torch.stack([images, 20 * model.conv(images) + 3]).transpose(1, 2)
    seen = seen.transpose(0, 1).flatten(1).double()
    expected = seen @ seen.T / seen.shape[1]
    torch.testing.assert_close(
        cpnb.input_covariance(model, "conv", data()), expected, rtol=1e-4, atol=1e-3
    )
    (moments,) = cpnb.patch_moments(model, model, "conv", data())
    kernel = model.conv.weight.detach().double().flatten(1)
    # Summed in float64: in float32 the mean itself would be off by a digit, by processor.
    means = [t.detach().double().mean((0, 2, 3)) for t in (model.conv(images), model(images))]
    torch.testing.assert_close(moments.output_mean, sum(means) / 2)
    torch.testing.assert_close(kernel @ moments.covariance, moments.cross, rtol=1e-3, atol=1e-3)
    small = cpnb.decompose(model, {"conv": 2})
    start = output_error(small, model)
    cpnb.reconstruct_on_data(small, model, "conv", data(), 20, lr=0.02, progress=False)
    assert output_error(small, model) < start


def test_a_linear_layer_of_maps_has_its_features_last():
    """As in ConvNeXt, whose 1x1 convolutions are linear layers on (N, H, W, C)."""

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(2, 3)

        def forward(self, x):
            return self.mix(x.permute(0, 2, 3, 1)).mean((1, 2))

    pixels = data().tensors[0].permute(0, 2, 3, 1).reshape(-1, 2).double()
    found = cpnb.input_covariance(Last(), "mix", data())
    torch.testing.assert_close(found, pixels.T @ pixels / len(pixels), rtol=1e-5, atol=1e-5)
    signal = TensorDataset(torch.randn(8, 2, 30), torch.arange(8) % 3)
    line = nn.Sequential(OrderedDict(conv=nn.Conv1d(2, 3, 3)))
    assert cpnb.input_covariance(line, "conv", signal).shape == (2, 2)
    with pytest.raises(TypeError, match="'pool' must be a convolution or a fully-connected layer"):
        cpnb.input_covariance(net(), "pool", data())


class Same(nn.Conv2d):
    def forward(self, x):
        return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))


def test_a_convolution_that_pads_by_itself_is_not_fitted_to():
    reference, small = net(), cpnb.decompose(net(), {"conv2": 3})
    reference.conv2.__class__ = Same
    with pytest.raises(TypeError, match="'conv2' of reference must compute as nn.Conv2d does"):
        cpnb.fit_to_patches(small, reference, "conv2", data())


def test_weights_that_are_computed_are_those_fitted_to():
    reference = net()
    with torch.no_grad():
        reference.conv2.weight[3:] *= 5
    small = cpnb.decompose(reference, {"conv2": 4})
    plain = copy.deepcopy(reference)
    parametrizations.weight_norm(reference.conv2)
    with torch.no_grad():  # what is read as `weight` must not be what stood there before
        reference.conv2.parametrizations.weight.original0.mul_(2)
        plain.conv2.weight.mul_(2)
    expected = cpnb.fit_to_patches(copy.deepcopy(small), plain, "conv2", data())
    found = cpnb.fit_to_patches(copy.deepcopy(small), reference, "conv2", data())
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_weights_that_a_hook_computes_are_refused():
    reference, small = net(), cpnb.decompose(net(), {"conv2": 3})
    prune.l1_unstructured(reference.conv2, "weight", amount=0.5)
    with pytest.raises(TypeError, match="'conv2' of reference .*prune.remove"):
        cpnb.fit_to_patches(small, reference, "conv2", data())
    with pytest.raises(TypeError, match="'conv2' must have weights of its own.*prune.remove"):
        cpnb.gradient_weights(reference, "conv2", data())
    normal = net()
    parametrizations.weight_norm(normal.conv2)
    with pytest.raises(TypeError, match="'conv2' must have weights of its own.*remove_parametr"):
        cpnb.gradient_weights(normal, "conv2", data())


def test_factors_that_cannot_be_written_are_not_fitted():
    """A write into a parametrized weight is a write into a copy."""
    small = cpnb.decompose(net(), {"conv2": 3})
    parametrizations.weight_norm(small.conv2.expand)
    with pytest.raises(
        TypeError, match="weights of their own to be fitted.*remove_parametrizations"
    ):
        cpnb.fit_to_patches(small, net(), "conv2", data())

    class Negated(cpnb.CPConv2d):
        def forward(self, x):
            return -super().forward(x)

    small = cpnb.decompose(net(), {"conv2": 3})
    small.conv2.__class__ = Negated
    with pytest.raises(TypeError, match="'conv2' of model must compute as a CPConv2d does"):
        cpnb.fit_to_patches(small, net(), "conv2", data())


def test_a_layer_that_does_not_run_is_named():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.body = nn.Conv2d(2, 3, 3), net()

        def forward(self, x):
            return self.body(x)

    small = cpnb.decompose(Idle(), {"conv": 2})
    for call in (
        lambda: cpnb.input_covariance(Idle(), "conv", data()),
        lambda: cpnb.fit_to_patches(small, Idle(), "conv", data()),
        lambda: cpnb.reconstruct_on_data(small, Idle(), "conv", data(), progress=False),
    ):
        with pytest.raises(ValueError, match="takes no part in the model's forward pass"):
            call()
    with pytest.raises(ValueError, match="loss does not depend on the weights of layer 'conv'"):
        cpnb.gradient_weights(Idle(), "conv", data())


def test_a_diverging_reconstruction_is_told():
    small = cpnb.decompose(net(), {"conv2": 3})
    with pytest.raises(ValueError, match="fit of layer 'conv2' diverges; try a lower lr than 1e"):
        cpnb.reconstruct_on_data(small, net(), "conv2", data(), 5, lr=1e30, progress=False)
    assert all(p.isfinite().all() for p in small.parameters())


def test_layers_of_unlike_options_are_told():
    small = cpnb.decompose(net(padding=1), {"conv2": 3})
    with pytest.raises(
        ValueError, match=r"'conv2' has stride \(1, 1\) in model, \(2, 2\) in refer"
    ):
        cpnb.fit_to_patches(small, net(padding=1, stride=2), "conv2", data())
    small.conv1.padding = (1, 1)
    with pytest.raises(ValueError, match="'conv2' has .* positions in model and .* in reference"):
        cpnb.fit_to_patches(small, net(padding=1), "conv2", data())
