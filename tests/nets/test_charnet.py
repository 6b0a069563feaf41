"""CharNet is the paper's network, and Maxout the maximum over consecutive channels."""

import pytest
import torch

from cpnb.inference.counts import count_multiplies, multiplies_per_layer
from cpnb.nets.charnet import CharNet, Maxout, load_charnet
from cpnb.nets.weights import CheckpointError, save_weights


def test_charnet_has_the_papers_shapes_and_multiplies():
    model = CharNet()
    assert model(torch.randn(2, 1, 24, 24)).shape == (2, 37)
    assert model(torch.randn(1, 1, 30, 41)).shape == (1, 37, 7, 18)
    example = torch.randn(3, 1, 24, 24)
    assert multiplies_per_layer(model, example) == {
        "conv1": 1_990_656,
        "conv2": 31_850_496,
        "conv3": 2_097_152,
        "conv4": 18_944,
    }
    assert count_multiplies(model, example) == 35_957_248


def test_charnet_on_an_image_is_charnet_on_each_of_its_patches():
    model = CharNet().eval()
    image = torch.randn(1, 1, 26, 25)
    with torch.no_grad():
        dense = model(image)
        for row in range(3):
            for column in range(2):
                patch = image[:, :, row : row + 24, column : column + 24]
                torch.testing.assert_close(
                    dense[:, :, row, column], model(patch), rtol=1e-4, atol=1e-5
                )


def test_charnet_starts_with_signals_of_unit_size():
    size = CharNet()(torch.randn(256, 1, 24, 24)).square().mean().item()
    assert 0.3 < size < 6  # the mean square of a maximum of four normal values is 1.55


def test_dropout_adds_no_weights_and_is_off_in_evaluation():
    model, dropping = CharNet().eval(), CharNet(dropout=0.5)
    dropping.load_state_dict(model.state_dict())
    x = torch.randn(4, 1, 24, 24)
    assert not torch.equal(dropping(x), dropping(x))
    assert torch.equal(dropping.eval()(x), model(x))


@pytest.mark.parametrize("shape", [(2, 3, 24, 24), (2, 1, 23, 24), (1, 24, 24)])
def test_charnet_names_the_shape_it_takes(shape):
    with pytest.raises(ValueError, match=r"\(N, 1, H, W\).*24"):
        CharNet()(torch.randn(shape))


@pytest.mark.parametrize("arguments", [{"dropout": 1.0}, {"dropout": -0.1}, {"num_classes": 0}])
def test_charnet_refuses_impossible_arguments(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        CharNet(**arguments)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_maxout_is_the_maximum_over_consecutive_channels(training, memory_format):
    x = torch.randn(2, 12, 3, 5).contiguous(memory_format=memory_format).requires_grad_()
    result = Maxout(4).train(training)(x)
    expected = x.detach().reshape(2, 3, 4, 3, 5).amax(2)
    assert torch.equal(result, expected)
    assert result.is_contiguous(memory_format=memory_format)
    result.sum().backward()
    winners = (x.detach().reshape(2, 3, 4, 3, 5) == expected[:, :, None]).reshape(2, 12, 3, 5)
    assert torch.equal(x.grad, winners.float())


def test_maxout_gradient_is_that_of_finite_differences():
    x = torch.randn(2, 6, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Maxout(3), x)


def test_maxout_refuses_what_it_cannot_group():
    with pytest.raises(ValueError, match="divisible by 4.*6, 2, 2"):
        Maxout(4)(torch.randn(1, 6, 2, 2))
    with pytest.raises(ValueError, match="groups"):
        Maxout(0)


def test_load_charnet_reads_weights_and_names_what_is_wrong(tmp_path):
    model = CharNet()
    save_weights(model, tmp_path / "net.safetensors")
    loaded = load_charnet(tmp_path / "net.safetensors")
    assert not loaded.training
    x = torch.randn(2, 1, 24, 24)
    assert torch.equal(loaded(x), model.eval()(x))
    with pytest.raises(FileNotFoundError, match="absent.safetensors"):
        load_charnet(tmp_path / "absent.safetensors")
    save_weights(CharNet(num_classes=10), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="conv4.weight"):
        load_charnet(tmp_path / "other.safetensors")


@pytest.mark.parametrize("training", [True, False])
def test_charnet_exports(training):
    model = CharNet().train(training)
    x = torch.randn(2, 1, 24, 24)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))
