"""Factored networks written and rebuilt: same outputs, same structure, nothing solved."""

import pytest
import torch
from torch import nn

import cpnb
from cpnb.cp import descent
from cpnb.nets.factored import load_factored, save_factored
from cpnb.nets.weights import CheckpointError, read_weights


def net(maps: int = 12) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, maps, 3, padding=1), nn.BatchNorm2d(maps), nn.ReLU(),
        nn.Conv2d(maps, 16, 3, stride=2, padding="valid", bias=False), nn.ReLU(),
        nn.Conv2d(16, 16, (3, 5), padding=(1, 2), dilation=(2, 1), groups=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    ).eval()  # fmt: skip


CASES = [
    ({"3": 5, "5": 4}, "nls", {"n_iter_max": 3}),
    ({"3": 5, "5": 4}, "jaderberg", {}),
    ({"3": 2}, "jaderberg", {"scheme": 1}),
    ({"3": 2, "5": 2}, "biclustering", {}),
    ({"3": (2, 3)}, "biclustering", {"blocks": "svd"}),
    ({"0": 4}, "monochromatic", {}),
    ({"3": (4, 6), "5": 0.7}, "tucker", {}),
    ({"9": 6}, "svd", {}),
]


@pytest.mark.parametrize("ranks, method, options", CASES)
def test_a_network_comes_back_with_the_same_outputs(tmp_path, monkeypatch, ranks, method, options):
    small, x = cpnb.decompose(net(), ranks, method, **options), torch.randn(2, 3, 14, 14)
    save_factored(small, tmp_path / "small.safetensors", {"note": "mine"})
    monkeypatch.setattr(descent, "descend", None)  # solving would now be an error
    back = load_factored(net(), tmp_path / "small.safetensors")
    assert torch.equal(back(x), small(x))
    for name in ranks:
        old, new = small.get_submodule(name), back.get_submodule(name)
        assert type(new) is type(old) and repr(new) == repr(old)
        assert torch.equal(new.kernel(), old.kernel())
    assert read_weights(tmp_path / "small.safetensors")[1]["note"] == "mine"


def test_what_comes_back_can_be_written_again_and_trained(tmp_path):
    small = cpnb.decompose(net(), {"3": 5}, n_iter_max=2)
    save_factored(small, tmp_path / "a.safetensors")
    back = load_factored(net(), tmp_path / "a.safetensors")
    save_factored(back, tmp_path / "b.safetensors")
    (a, told), (b, told_again) = (read_weights(tmp_path / f"{n}.safetensors") for n in "ab")
    assert told == told_again and all(torch.equal(a[key], b[key]) for key in a)
    back(torch.randn(2, 3, 14, 14)).sum().backward()
    assert all(p.grad is not None for p in back.parameters())


def test_the_fresh_model_stays_dense(tmp_path):
    fresh = net()
    save_factored(cpnb.decompose(net(), {"3": 5}, n_iter_max=2), tmp_path / "a.safetensors")
    load_factored(fresh, tmp_path / "a.safetensors")
    assert type(fresh[3]) is nn.Conv2d


def test_a_network_of_other_sizes_is_refused_layer_by_layer(tmp_path):
    save_factored(cpnb.decompose(net(), {"3": 5}, n_iter_max=2), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="layer '3' was .*in_channels.*12.*is .*14"):
        load_factored(net(14), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="no layer '3'"):
        load_factored(nn.Sequential(nn.Linear(2, 2)), tmp_path / "a.safetensors")


def test_what_holds_no_factored_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no factored layer; save_weights"):
        save_factored(net(), tmp_path / "a.safetensors")
    with pytest.raises(TypeError, match="nn.Module, got dict"):
        save_factored({}, tmp_path / "a.safetensors")
    cpnb.save_weights(net(), tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match="holds no factored network"):
        load_factored(net(), tmp_path / "plain.safetensors")
    with pytest.raises(FileNotFoundError):
        load_factored(net(), tmp_path / "none.safetensors")


def test_a_layer_of_a_class_of_ones_own_is_refused(tmp_path):
    class Mine(cpnb.CPConv2d):
        pass

    model = nn.Sequential(Mine(nn.Conv2d(4, 4, 3), 2))
    with pytest.raises(TypeError, match="layer '0' is a Mine; save_factored knows CPConv2d"):
        save_factored(model, tmp_path / "a.safetensors")
