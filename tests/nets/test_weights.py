"""Files of weights and checkpoints: whole or not at all, and clear about what does not fit."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from cpnb.nets import weights as checkpoints
from cpnb.nets.charnet import CharNet, load_charnet
from cpnb.nets.weights import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)


def _net(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width))


def _same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_weights_come_back_bit_for_bit_with_their_metadata(tmp_path):
    path = tmp_path / "deep" / "net.safetensors"
    model, other = _net().to(memory_format=torch.channels_last), _net()
    metadata = {"accuracy": 0.91, "data": "characters", "ranks": {"conv2": 64}}
    save_weights(model, path, metadata)
    assert load_weights(other, path) == metadata
    assert _same(model.state_dict(), other.state_dict())


def test_tied_weights_are_saved(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_weights(model, tmp_path / "tied.safetensors")
    load_weights(model, tmp_path / "tied.safetensors")


def test_all_that_does_not_fit_is_listed_and_the_model_left_alone(tmp_path):
    path = tmp_path / "net.safetensors"
    save_weights(nn.Sequential(nn.Conv2d(1, 5, 3)), path)
    model = _net()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_weights(model, path)
    for part in ("0.weight has shape (5, 1, 3, 3)", "(4, 1, 3, 3)", "0.bias", "missing 1.weight"):
        assert part in str(error.value)
    with pytest.raises(CheckpointError, match="unexpected 1.running_mean"):
        save_weights(_net(5), path)
        load_weights(nn.Sequential(nn.Conv2d(1, 5, 3)), path)
    assert _same(before, model.state_dict())


def _checkpoint(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer, Checkpoint]:
    torch.manual_seed(seed)
    model = _net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    model(torch.randn(2, 1, 5, 5)).square().sum().backward()
    optimizer.step()
    state = {"history": [{"epoch": 1, "lr": 0.1 + 0.2}], "recipe": {"seed": seed}}
    saved = Checkpoint(model.state_dict(), optimizer.state_dict(), model.state_dict(), state)
    return model, optimizer, saved


def test_a_checkpoint_comes_back_whole(tmp_path):
    _, optimizer, saved = _checkpoint()
    save_checkpoint(tmp_path / "run", saved)
    loaded = load_checkpoint(tmp_path / "run")
    assert _same(saved.model, loaded.model)
    assert _same(saved.best, loaded.best)
    assert loaded.state == saved.state
    optimizer.load_state_dict(loaded.optimizer)
    for index, entries in saved.optimizer["state"].items():
        assert _same(entries, optimizer.state_dict()["state"][index])


def test_a_checkpoint_without_best_or_moments(tmp_path):
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    save_checkpoint(tmp_path / "run", Checkpoint(model.state_dict(), optimizer.state_dict()))
    loaded = load_checkpoint(tmp_path / "run")
    assert loaded.best is None
    assert loaded.optimizer["state"] == {}


@pytest.mark.parametrize("load", [load_checkpoint, lambda path: load_weights(_net(), path)])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "header"])
def test_a_damaged_file_is_named(tmp_path, load, damage):
    path = tmp_path / "run.safetensors"
    save_checkpoint(path, _checkpoint()[2])
    whole = path.read_bytes()
    damaged = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"not a checkpoint at all",
        "header": whole[:8] + b"\xff" * 40 + whole[48:],
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(CheckpointError, match="run.safetensors.*corrupt or truncated.*delete"):
        load(path)


def test_plain_weights_are_no_checkpoint(tmp_path):
    save_weights(_net(), tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match="no training checkpoint.*load_weights"):
        load_checkpoint(tmp_path / "net.safetensors")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load_checkpoint(tmp_path / "absent")


def test_metadata_of_other_programs_is_kept_as_text(tmp_path):
    path = tmp_path / "net.safetensors"
    tensors = {key: tensor.clone() for key, tensor in _net().state_dict().items()}
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt", "n": json.dumps(3)})
    assert load_weights(_net(), path) == {"format": "pt", "n": 3}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_previous_file_and_no_other(tmp_path, monkeypatch, step):
    path = tmp_path / "net.safetensors"
    save_weights(_net(), path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoints.os, step, fail)
    with pytest.raises(OSError, match="no space left"):
        save_weights(_net(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_home_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    save_weights(CharNet(), "~/net.safetensors")
    load_weights(CharNet(), "~/net.safetensors")
    assert load_charnet("~/net.safetensors").training is False
    save_checkpoint("~/run", _checkpoint()[2])
    assert load_checkpoint("~/run").best is not None
    assert sorted(p.name for p in (tmp_path / "home").iterdir()) == ["net.safetensors", "run"]
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<!DOCTYPE html><html>", "begins with b'<!DOCTYPE html><html>': a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "that Git LFS has not fetched"),
        (b"", "it is empty"),
    ],
)
def test_a_file_that_is_none_is_told_with_its_kind(tmp_path, content, told):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=told) as error:
        load_weights(_net(), path)
    assert str(path) in str(error.value)


def test_metadata_of_numpy_comes_back_as_plain_numbers(tmp_path):
    save_weights(_net(), tmp_path / "n", {"rank": np.int64(3), "accuracy": torch.tensor(0.5)})
    assert load_weights(_net(), tmp_path / "n") == {"rank": 3, "accuracy": 0.5}
