"""Accuracy of what people really evaluate: backgrounds, outputs with names, NaN, impossible k."""

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset

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


def trained(data):
    model = net()
    cpnb.train(model, data, 1, batch_size=24, lr=0.01, **QUIET)
    return model.head.weight.detach()


# The class that stands for none


class Says(nn.Module):
    """Answers one class, whatever it sees."""

    def __init__(self, answer: int, classes: int = 37, second: int = 3):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(classes))
        with torch.no_grad():
            self.logits[answer], self.logits[second] = 2.0, 1.0

    def forward(self, x):
        return self.logits.expand(len(x), -1) + 0 * x.flatten(1)[:, :1]


def threes(kind=TensorDataset):
    return kind(torch.zeros(10, 1, 24, 24), torch.full((10,), 3))


def test_a_background_class_is_a_property_of_charnets_data():
    model = Says(36)
    assert cpnb.accuracy(model, threes()) == 0.0
    assert cpnb.topk_accuracy(model, threes(), k=(1, 2)) == {1: 0.0, 2: 1.0}
    own = threes(cpnb.CharacterDataset)
    mixed = cpnb.concatenate(own, own)
    mixed.labels[:7] = 36
    for data in (
        *(own, own.sample(3), own.subset(torch.arange(4)), mixed, DataLoader(own, 4)),
        *(torch.utils.data.Subset(mixed, range(2, 20)), ConcatDataset([own, mixed])),
        DataLoader(torch.utils.data.Subset(own, [1, 2]), 2),
    ):
        assert cpnb.accuracy(model, data) == cpnb.topk_accuracy(model, data, k=1)[1] == 1.0
    assert cpnb.accuracy(model, threes(), background=36) == 1.0
    assert cpnb.accuracy(model, own, background=3 + 1) == 0.0


def test_a_given_background_may_be_any_class_of_the_model():
    images, labels = torch.zeros(4, 1, 6, 6), torch.tensor([0, 0, 3, 3])
    data = TensorDataset(images, labels)
    assert cpnb.accuracy(Says(0, CLASSES), data) == 0.5
    assert cpnb.accuracy(Says(0, CLASSES), data, background=0) == 1.0
    for wrong in (4, -1, True, 1.0):
        with pytest.raises(ValueError, match="background must be None or one of .*0 to 3, got"):
            cpnb.accuracy(Says(0, CLASSES), data, background=wrong)


def test_characters_for_a_model_without_a_background_class():
    assert cpnb.accuracy(Says(3, 36, second=4), threes(cpnb.CharacterDataset)) == 1.0
    with pytest.raises(ValueError, match="data sets do not agree which class is the background"):
        others = cpnb.ImageDataset(*threes().tensors, map(str, range(37)))
        cpnb.accuracy(Says(3), ConcatDataset([others, threes(cpnb.CharacterDataset)]))


def test_the_best_epoch_is_chosen_without_a_foreign_background():
    """Class 36 of these data is a class like any other."""

    class Learns(Says):
        def forward(self, x):
            if not self.training:
                return super().forward(x)
            with torch.no_grad():  # right in the first epoch, wrong in the second
                self.logits[36] += 2 * int(self.logits[3] == 2.0)
            return super().forward(x)

    model = Learns(3, second=36)
    images, labels = threes().tensors
    settings = {"lr": 1e-9, "validation": TensorDataset(images, labels), "batch_size": 10}
    rows = cpnb.finetune(model, TensorDataset(images, labels), 2, **settings, **QUIET)
    assert [row["val_accuracy"] for row in rows] == [0.0, 0.0]
    assert [row["train_accuracy"] for row in rows] == [0.0, 0.0]


# Outputs


Output = namedtuple("Output", ["logits", "aux_logits"])


class Auxiliary(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.body, self.aux, self.form = net(), net(), form

    def forward(self, x):
        return self.form(self.body(x), self.aux(x))


def test_the_main_output_is_the_one_named_logits():
    data = TensorDataset(*tensors())
    for form in (Output, lambda main, aux: {"logits": main, "aux": aux}):
        model = Auxiliary(form)
        assert cpnb.accuracy(model, data) == cpnb.accuracy(model.body, data)
        cpnb.train(model, data, 1, batch_size=24, lr=0.01, **QUIET)
        torch.testing.assert_close(model.body.head.weight, trained(data))
        assert torch.equal(model.aux.head.weight, net().head.weight)


def test_an_output_without_that_name_is_refused():
    data = TensorDataset(*tensors())
    for form in (lambda main, aux: (main, aux), lambda main, aux: {"out": main}):
        for call in (cpnb.accuracy, cpnb.topk_accuracy, lambda *a: cpnb.train(*a, 1, **QUIET)):
            with pytest.raises(
                TypeError, match="must give logits .*that names them `logits`; got a"
            ):
                call(Auxiliary(form), data)


def test_googlenet_is_trained_by_its_main_output():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.googlenet(weights=None, init_weights=False, num_classes=CLASSES)
    before = model.aux1.fc2.weight.clone()
    data = TensorDataset(torch.randn(4, 3, 64, 64), torch.arange(4))
    (row,) = cpnb.finetune(model, data, 1, batch_size=4, validation=data, **QUIET)
    assert 0 < row["train_loss"] < 5 and torch.equal(model.aux1.fc2.weight, before)


# NaN


def nan_image(number: int = 24):
    images, labels = tensors(number)
    images[5, 0, 2, 2] = torch.nan
    return TensorDataset(images, labels)


def test_images_that_are_not_finite_are_to_blame():
    for call in (
        lambda: cpnb.accuracy(net(), nan_image()),
        lambda: cpnb.topk_accuracy(net(), nan_image(), k=1),
    ):
        with pytest.raises(ValueError, match="gives NaN; the images of loader are not finite"):
            call()
    with pytest.raises(
        cpnb.TrainingError, match="images at epoch 1, step .* not finite.*in loader$"
    ):
        cpnb.train(net(), nan_image(), 1, batch_size=8, **QUIET)
    with pytest.raises(ValueError, match="the images of validation are not finite"):
        cpnb.train(net(), TensorDataset(*tensors()), 1, validation=nan_image(), **QUIET)
    for call in (
        lambda model: cpnb.input_covariance(model, "conv", nan_image()),
        lambda model: cpnb.reconstruct_on_data(model, net(), "conv", nan_image(), progress=False),
    ):
        model = net()
        with pytest.raises(ValueError, match="NaN or Inf at layer 'conv'"):
            call(model)
        assert torch.equal(model.conv.weight, net().conv.weight)
    with pytest.raises(ValueError, match="gradient at layer 'conv' is NaN or Inf"):
        cpnb.gradient_weights(net(), "conv", nan_image())


def test_weights_that_are_not_finite_are_to_blame():
    model = net()
    with torch.no_grad():
        model.head.weight[0, 0] = torch.nan
    data = TensorDataset(*tensors())
    with pytest.raises(ValueError, match="images of loader are finite: look at its weights"):
        cpnb.accuracy(model, data)
    with pytest.raises(cpnb.TrainingError, match="loss is nan before the first step, of finite im"):
        cpnb.train(model, data, 1, **QUIET)


# k


@pytest.mark.parametrize("k", [0, (1, 0), (), (1, -1), (1.5,), True])
def test_impossible_k_is_named(k):
    with pytest.raises(ValueError, match="k must be one or more integers of at least 1, got"):
        cpnb.topk_accuracy(net(), TensorDataset(*tensors()), k=k)


def test_k_beyond_the_classes_is_named():
    data = TensorDataset(*tensors())
    with pytest.raises(ValueError, match=r"k=\(1, 5\): the model has only 4 classes"):
        cpnb.topk_accuracy(net(), data)
    assert cpnb.topk_accuracy(net(), data, k=4) == {4: 1.0}
