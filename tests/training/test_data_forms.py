"""Data as people have them: read as what they mean, or an error that says what is accepted."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import cpnb

QUIET = {"progress": False, "device": "cpu"}
CLASSES = 4


def net() -> nn.Module:
    torch.manual_seed(0)
    parts = OrderedDict(conv=nn.Conv2d(1, 4, 3), flat=nn.Flatten(), head=nn.Linear(64, CLASSES))
    return nn.Sequential(parts).eval()


def tensors(number: int = 24):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(number, 1, 6, 6, generator=generator)
    return images, torch.arange(number) % CLASSES


class Items(Dataset):
    """Items as they are given."""

    def __init__(self, items):
        self.items = list(items)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(*tensors(), strict=True)


def trained(data):
    model = net()
    # One batch: a DataLoader shuffles otherwise than tensors are.
    cpnb.train(model, data, 1, batch_size=24, lr=0.01, **QUIET)
    return model.head.weight.detach()


def one_hot(labels):
    return nn.functional.one_hot(labels, CLASSES)


class AsDict(Dataset):
    def __init__(self, keys):
        self.keys, self.pairs = keys, list(zip(*tensors(), strict=True))

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return dict(zip(self.keys, self.pairs[index], strict=True))


def with_labels(change):
    images, labels = tensors()
    return TensorDataset(images, change(labels))


FORMS = {
    "dicts": lambda: AsDict(("image", "label")),
    "dicts of transformers": lambda: AsDict(("pixel_values", "labels")),
    "labels (N, 1)": lambda: with_labels(lambda labels: labels[:, None]),
    "32-bit labels": lambda: with_labels(lambda labels: labels.int()),
    "one-hot": lambda: with_labels(one_hot),
    "one-hot floats": lambda: with_labels(lambda labels: one_hot(labels).float()),
    "numpy labels": lambda: Items(
        (x, np.int64(y)) for x, y in zip(*tensors(), strict=True)
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_mean_the_same_give_the_same(form):
    plain = TensorDataset(*tensors())
    assert cpnb.accuracy(net(), FORMS[form]()) == cpnb.accuracy(net(), plain)
    assert cpnb.topk_accuracy(net(), FORMS[form](), k=(1, 2)) == cpnb.topk_accuracy(
        net(), plain, k=(1, 2)
    )
    torch.testing.assert_close(trained(FORMS[form]()), trained(plain))
    torch.testing.assert_close(
        cpnb.gradient_weights(net(), "conv", FORMS[form](), batch_size=24),
        cpnb.gradient_weights(net(), "conv", plain, batch_size=24),
    )


def soft(labels):
    return one_hot(labels) * 0.9 + 0.025


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            with_labels(lambda labels: labels.float()),
            r"class numbers.*got float32 of shape \(24,\)",
        ),
        (
            with_labels(soft),
            r"class numbers.*one-hot rows.*got float32 of shape \(8, 4\)|\(24, 4\)",
        ),
        (with_labels(lambda labels: 1 + 0 * one_hot(labels)), r"got int64 of shape \(24, 4\)"),
        (TensorDataset(tensors()[0]), "the labels of loader must be class numbers.*got none"),
        (Items(tensors()[0]), "the labels of loader must be class numbers.*got none"),
        (
            Items((x, str(int(y))) for x, y in zip(*tensors(), strict=True)),
            "class numbers.*got a tuple",
        ),
        (
            Items((x, y, 0) for x, y in zip(*tensors(), strict=True)),
            "batches of an unknown form, a list of 3; accepted are pairs",
        ),
        (AsDict(("image", "fine_label")), "labels of loader must be class numbers.*got none"),
        (AsDict(("photo", "label")), "dicts with the keys photo, label; accepted are .*pixel_valu"),
        (tuple(tensors()), r"got tuple of tensors; torch.utils.data.TensorDataset\(\*it\) is one"),
    ],
)
def test_other_forms_are_named(data, message):
    for call in (
        lambda: cpnb.accuracy(net(), data),
        lambda: cpnb.topk_accuracy(net(), data),
        lambda: cpnb.train(net(), data, 1, **QUIET),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call()


def test_validation_data_are_called_so():
    bad = with_labels(lambda labels: labels.float())
    model = net()
    for wrong, message in ((bad, "labels of validation must be class numbers"), (EMPTY, "no samp")):
        with pytest.raises(ValueError, match=message):
            cpnb.train(model, TensorDataset(*tensors()), 1, validation=wrong, **QUIET)
    assert torch.equal(model.head.weight, net().head.weight)  # before any work


@pytest.mark.parametrize("labels", [torch.tensor([0, 4]), torch.tensor([-100, 1])])
def test_labels_beyond_the_classes_are_named(labels):
    data = TensorDataset(tensors(2)[0], labels)
    for call in (
        lambda: cpnb.accuracy(net(), data),
        lambda: cpnb.topk_accuracy(net(), data, k=1),
        lambda: cpnb.train(net(), data, 1, **QUIET),
        lambda: cpnb.gradient_weights(net(), "conv", data),
    ):
        with pytest.raises(ValueError, match=f"labels run from {min(labels)} to .*classes 0 to 3"):
            call()


def test_images_and_labels_of_unequal_number():
    data = cpnb.ImageDataset(tensors()[0], tensors()[1][:-1], "abcd")
    with pytest.raises(ValueError, match="got 23 labels and 24 images"):
        cpnb.accuracy(net(), data)


# A data set's own __getitem__


class Mine(Dataset):
    """Has images and labels, and gives something else."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index] * 0 + 3.0, (int(self.labels[index]) + 1) % CLASSES


class MyCharacters(cpnb.CharacterDataset):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image * 0 + 3.0, (label + 1) % CLASSES


class MyTensors(TensorDataset):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image * 0 + 3.0, (label + 1) % CLASSES


@pytest.mark.parametrize("kind", [Mine, MyCharacters, MyTensors])
def test_a_data_sets_own_items_are_taken(kind):
    images, labels = tensors()
    given, meant = kind(images, labels), TensorDataset(images * 0 + 3.0, (labels + 1) % CLASSES)
    assert cpnb.accuracy(net(), given) == cpnb.accuracy(net(), meant) == 0.25
    torch.testing.assert_close(trained(given), trained(meant))
    for look in (
        lambda data: cpnb.input_covariance(net(), "conv", data),
        lambda data: cpnb.patch_moments(padded(), padded(), "conv", data)[0].covariance,
        lambda data: cpnb.gradient_weights(net(), "conv", data, batch_size=24),
    ):
        torch.testing.assert_close(look(given), look(meant))


def padded():
    """Constant images are not one patch alone to it."""
    conv = nn.Conv2d(1, 4, 3, padding=1)
    torch.nn.init.ones_(conv.weight)
    return nn.Sequential(OrderedDict(conv=conv))


@pytest.mark.parametrize("kind", [Mine, MyCharacters])
def test_reconstruction_takes_a_data_sets_own_items(kind):
    images, labels = tensors()
    weights = []
    for data in (kind(images, labels), TensorDataset(images * 0 + 3.0, labels)):
        small = net()
        with torch.no_grad():
            small.conv.weight.mul_(2)
        cpnb.reconstruct_on_data(small, net(), "conv", data, progress=False)
        weights.append(small.conv.weight.detach())
    torch.testing.assert_close(*weights)


def test_images_alone_do_where_labels_are_not_used():
    """A batch of two bare images is no pair of images and labels."""
    images, labels = tensors(2)
    small, pairs = net(), TensorDataset(images, labels)
    with torch.no_grad():
        small.conv.weight.mul_(2)
    for alone in (Items(images), TensorDataset(images), images):
        torch.testing.assert_close(
            cpnb.input_covariance(net(), "conv", alone), cpnb.input_covariance(net(), "conv", pairs)
        )
        torch.testing.assert_close(
            cpnb.patch_moments(net(), net(), "conv", alone)[0].covariance,
            cpnb.patch_moments(net(), net(), "conv", pairs)[0].covariance,
        )
        ours, theirs = copy.deepcopy(small), copy.deepcopy(small)
        for model, data in ((ours, alone), (theirs, pairs)):
            cpnb.reconstruct_on_data(model, net(), "conv", data, progress=False)
        torch.testing.assert_close(ours.conv.weight, theirs.conv.weight)


# Streams, and nothing


def test_streams_are_evaluated_and_seen():
    plain = TensorDataset(*tensors())
    for stream in (Stream(), DataLoader(Stream(), 5)):
        assert cpnb.accuracy(net(), stream) == cpnb.accuracy(net(), plain)
        torch.testing.assert_close(
            cpnb.input_covariance(net(), "conv", stream),
            cpnb.input_covariance(net(), "conv", plain),
        )


@pytest.mark.parametrize("stream", [Stream(), DataLoader(Stream(), 5)], ids=["bare", "loader"])
def test_a_stream_of_unknown_length_cannot_be_trained_on(stream):
    for call in (
        lambda: cpnb.train(net(), stream, 1, **QUIET),
        lambda: cpnb.reconstruct_on_data(net(), net(), "conv", stream, progress=False),
    ):
        with pytest.raises(TypeError, match="loader must have a length.*Stream has none"):
            call()


def test_a_stream_of_known_length_is_trained_on():
    class Known(Stream):
        def __len__(self):
            return 24

    model = net()
    (row,) = cpnb.train(model, Known(), 1, batch_size=8, **QUIET)
    assert row["train_loss"] > 0


class Careful(nn.Module):
    """Does not take a batch without samples."""

    def __init__(self):
        super().__init__()
        self.conv, self.body = nn.Conv2d(1, 4, 3), net()

    def forward(self, x):
        assert len(x)
        self.conv(x)
        return self.body(x)


EMPTY = TensorDataset(torch.zeros(0, 1, 6, 6), torch.zeros(0, dtype=torch.long))


@pytest.mark.parametrize(
    "data", [EMPTY, DataLoader(EMPTY, 4), Items([])], ids=["set", "loader", "list"]
)
def test_nothing_is_said_to_be_nothing(data):
    factored = cpnb.decompose(Careful(), {"conv": 2})
    for call in (
        lambda: cpnb.accuracy(Careful(), data),
        lambda: cpnb.topk_accuracy(Careful(), data, k=1),
        lambda: cpnb.train(Careful(), data, 1, **QUIET),
        lambda: cpnb.gradient_weights(Careful(), "conv", data),
        lambda: cpnb.input_covariance(Careful(), "conv", data),
        lambda: cpnb.fit_to_patches(factored, Careful(), "conv", data),
        lambda: cpnb.reconstruct_on_data(factored, Careful(), "conv", data, progress=False),
    ):
        with pytest.raises(ValueError, match="loader has (no|0) samples"):
            call()


def test_an_empty_batch_is_passed_over():
    images, labels = tensors()
    loader = DataLoader(
        TensorDataset(images, labels), batch_sampler=[range(8), range(8, 16), [], range(16, 24)],
        collate_fn=lambda items: [
            torch.stack([x for x, _ in items]) if items else images[:0],
            torch.tensor([int(y) for _, y in items], dtype=torch.long),
        ],
    )  # fmt: skip
    assert cpnb.accuracy(Careful(), loader) == cpnb.accuracy(
        Careful(), TensorDataset(images, labels)
    )
    (row,) = cpnb.train(Careful(), loader, 1, **QUIET)
    assert row["train_loss"] > 0


def test_an_epoch_without_samples_is_named():
    def samples(epoch):
        return TensorDataset(*tensors()) if epoch == 1 else EMPTY

    with pytest.raises(ValueError, match="loader has no samples for epoch 2"):
        cpnb.train(net(), samples, 2, **QUIET)
