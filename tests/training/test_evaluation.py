"""Accuracy as the paper counts it, and batches that lose no sample."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from cpnb.data.characters import CharacterDataset
from cpnb.data.images import ImageDataset
from cpnb.training.batches import batches, count_batches
from cpnb.training.evaluation import accuracy, evaluate, evaluation_mode


class _Fixed(nn.Module):
    """Gives the logits it is shown: 'images' of shape (N, classes, 1, 1)."""

    def forward(self, x):
        return x.flatten(1)


class _Plain(Dataset):
    """A map-style data set that holds nothing in memory."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]


def _in_memory(data):
    """One of cpnb's own data sets."""
    return ImageDataset(*data.tensors, [])


def _logits(*rows, classes=37):
    """Logits that favour the given classes, first before second."""
    logits = torch.zeros(len(rows), classes, 1, 1)
    for row, favoured in zip(logits, rows, strict=True):
        for rank, label in enumerate(favoured):
            row[label] = 10.0 - rank
    return logits


def test_accuracy_leaves_out_the_background_class():
    # The background wins the first sample, with its label second: counted as right.
    images = _logits([36, 4], [5], [6], [36], [7])
    labels = torch.tensor([4, 5, 0, 36, 36])
    assert accuracy(_Fixed(), CharacterDataset(images, labels)) == pytest.approx(2 / 3)
    assert accuracy(_Fixed(), TensorDataset(images, labels), background=36) == pytest.approx(2 / 3)
    assert accuracy(_Fixed(), TensorDataset(images, labels)) == pytest.approx(2 / 5)


def test_accuracy_of_a_model_without_background_class():
    data = TensorDataset(_logits([1], [2], classes=10), torch.tensor([1, 3]))
    assert accuracy(_Fixed(), data) == 0.5


def test_loss_is_the_mean_over_samples_whatever_the_batches():
    images, labels = torch.randn(10, 37, 1, 1), torch.arange(10)
    expected = nn.functional.cross_entropy(images.flatten(1), labels).item()
    for size in (3, 10):
        loss, _ = evaluate(_Fixed(), TensorDataset(images, labels), batch_size=size)
        assert loss == pytest.approx(expected)


def test_each_parts_own_mode_is_restored():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3)).train()
    model[1].eval()
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert model.training
    assert model[0].training
    assert not model[1].training


def test_a_model_can_be_trained_after_it_was_evaluated():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    data = TensorDataset(torch.randn(5, 1, 2, 2), torch.arange(5) % 3)
    evaluate(model, data)
    model(data.tensors[0]).sum().backward()
    assert model[1].weight.grad is not None


@pytest.mark.parametrize("wrap", [_in_memory, _Plain, lambda data: data])
def test_batches_hold_every_sample_once_in_an_order_of_the_seed(wrap):
    data = TensorDataset(torch.arange(10.0).view(10, 1, 1, 1), torch.arange(10))

    def order(**options):
        given = list(batches(wrap(data), 4, **options))
        assert [len(labels) for _, labels in given] == [4, 4, 2]
        assert all(torch.equal(images.flatten().long(), labels) for images, labels in given)
        return torch.cat([labels for _, labels in given]).tolist()

    assert order() == list(range(10))
    shuffled = order(shuffle=True, seed=1)
    assert sorted(shuffled) == list(range(10)) != shuffled
    assert order(shuffle=True, seed=1) == shuffled != order(shuffle=True, seed=2)
    assert count_batches(wrap(data), 4) == 3


def test_a_loader_with_a_generator_follows_the_seed():
    data = TensorDataset(torch.arange(10.0), torch.arange(10))
    loader = DataLoader(data, 10, shuffle=True, generator=torch.Generator())
    first, again, other = (next(batches(loader, 99, seed=seed))[1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert count_batches(loader, 99) == 1


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 37, 1, 1), torch.tensor([36, 36]), "2 samples, none outside"),
        (torch.zeros(0, 37, 1, 1), torch.zeros(0).long(), "0 samples"),
        (torch.zeros(2, 10, 1, 1), torch.tensor([3, 10]), "labels run from 3 to 10.*0 to 9"),
    ],
)
def test_what_cannot_be_evaluated_is_said(images, labels, message):
    with pytest.raises(ValueError, match=message):
        accuracy(_Fixed(), CharacterDataset(images, labels))


def test_maps_are_no_logits():
    data = TensorDataset(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\).*\(N, classes\)"):
        accuracy(nn.Identity(), data)


def test_what_is_no_data_is_named():
    with pytest.raises(TypeError, match="Dataset or a DataLoader, got int"):
        accuracy(_Fixed(), 3)
