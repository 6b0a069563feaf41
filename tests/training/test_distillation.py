"""Training with a teacher: its answers in the loss, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import cpnb
from cpnb.training.distillation import taught


def net_of(classes=5, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, classes)).eval()


@pytest.fixture
def data():
    torch.manual_seed(2)
    return TensorDataset(torch.randn(256, 3, 4, 4), torch.randint(5, (256,)))


def test_the_loss_is_hintons(data):
    """Equation 4, written with probabilities."""
    images, labels = data.tensors
    model, teacher = net_of().double(), net_of(seed=1).double()
    logits = model(images.double())
    hard = F.cross_entropy(logits, labels)
    soft, answers = (
        (values / 4).softmax(1) for values in (logits, teacher(images.double()).detach())
    )
    gap = (answers * (answers / soft).log()).sum(1).mean()
    found = taught(hard, logits, teacher, images.double())
    torch.testing.assert_close(found, 0.5 * hard + 0.5 * 16 * gap)


def test_a_model_comes_nearer_to_its_teacher(data):
    """Of labels that are noise nothing else can be learned."""
    teacher, unseen = net_of(seed=1), torch.randn(128, 3, 4, 4)
    alone, pupil = net_of(), net_of()
    before = copy.deepcopy(teacher.state_dict())
    for model, given in ((alone, None), (pupil, teacher)):
        cpnb.train(model, data, 40, lr=0.1, teacher=given, progress=False)
    with torch.no_grad():
        want, *found = (m(unseen).softmax(1) for m in (teacher, alone, pupil))
    far, near = (float((values - want).norm()) for values in found)
    assert near < 0.5 * far
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())


def test_resumed_with_the_same_teacher_alone(data, tmp_path):
    path, teacher = tmp_path / "run.safetensors", net_of(seed=1)
    whole, halves = net_of(), net_of()
    cpnb.train(whole, data, 4, teacher=teacher, progress=False)

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    run = {"teacher": teacher, "checkpoint": path, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        cpnb.train(halves, data, 4, on_epoch=stop, **run)
    halves = net_of()
    cpnb.train(halves, data, 4, **run)
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(a, b)
    for other in (None, net_of(seed=3)):
        with pytest.raises(cpnb.CheckpointError, match="other starting weights"):
            cpnb.train(net_of(), data, 4, **(run | {"teacher": other}))


def test_bad_teachers_are_told(data):
    with pytest.raises(TypeError, match="teacher must be an nn.Module, got str"):
        cpnb.train(net_of(), data, 1, teacher="resnet", progress=False)
    with pytest.raises(ValueError, match=r"teacher gives logits of shape \(128, 7\)"):
        cpnb.train(net_of(), data, 1, teacher=net_of(classes=7), progress=False)
    broken = net_of(seed=1)
    with torch.no_grad():
        broken[1].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="teacher gives NaN or Inf"):
        cpnb.train(net_of(), data, 1, teacher=broken, progress=False)
