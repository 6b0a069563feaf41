"""One loop for training and fine-tuning: repeatable, resumable, and clear when it cannot go on."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cpnb.nets.charnet import CharNet, Maxout
from cpnb.nets.weights import CheckpointError, load_checkpoint
from cpnb.training.finetuning import TrainingError, accuracy, finetune, train
from cpnb.training.recipe import Recipe

CLASSES = 5


def _net(seed: int = 0, dropout: float = 0.2) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 8),  # large enough for fast_convolutions
        Maxout(2),
        nn.BatchNorm2d(4),
        nn.Dropout(dropout),
        nn.Conv2d(4, 4, 3),
        nn.Flatten(),
        nn.Linear(4 * 3 * 3, CLASSES),
    )


def _data(number: int = 40, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % CLASSES
    means = torch.randn(CLASSES, 1, 12, 12, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(number, 1, 12, 12, generator=generator)
    return TensorDataset(means[labels] + noise, labels)


def _jitter(images, generator):
    return images + 0.1 * torch.randn(images.shape, generator=generator)


def _weights(model) -> dict:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def _same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


QUIET = {"progress": False, "device": "cpu"}
SETTINGS = QUIET | {"batch_size": 16, "lr": 0.01, "background": None}


class _Interrupt(Exception):
    pass


def _interrupt_after(epoch):
    def on_epoch(row):
        if row["epoch"] == epoch:
            raise _Interrupt

    return on_epoch


def test_charnet_overfits_a_tiny_set():
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(12, 1, 24, 24), torch.arange(12) * 3)
    model = CharNet()
    history = train(model, data, 12, batch_size=12, **QUIET)
    assert accuracy(model, data) == 1.0
    assert [row["epoch"] for row in history] == list(range(1, 13))
    assert history[-1]["train_loss"] < 0.5 < history[0]["train_loss"]
    assert set(history[0]) == {"epoch", "seconds", "lr", "train_loss", "train_accuracy"}
    assert not model.training


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("validation", [None, _data(20, seed=1)], ids=["alone", "validated"])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    tmp_path, optimizer, channels_last, validation
):
    arguments = SETTINGS | {
        "epochs": 4, "augment": _jitter, "validation": validation,
        "optimizer": optimizer, "channels_last": channels_last,
    }  # fmt: skip
    whole, broken = _net(), _net()
    expected = train(whole, _data(), **arguments)
    arguments["checkpoint"] = tmp_path / "run"
    with pytest.raises(_Interrupt):
        train(broken, _data(), on_epoch=_interrupt_after(2), **arguments)
    resumed = _net()  # as a new process would start
    history = train(resumed, _data(), **arguments)
    assert _same(_weights(whole), _weights(resumed))
    for ours, theirs in zip(history, expected, strict=True):
        assert ours | {"seconds": 0} == theirs | {"seconds": 0}
    # A finished run is only loaded.
    again = _net()
    assert train(again, _data(), on_epoch=_interrupt_after(4), **arguments) == history
    assert _same(_weights(whole), _weights(again))


@pytest.mark.parametrize("generator", [None, torch.Generator()], ids=["global", "own"])
def test_a_dataloader_resumes_too(tmp_path, generator):
    loader = DataLoader(_data(), 16, shuffle=True, generator=generator)
    whole, broken, resumed = _net(), _net(), _net()
    train(whole, loader, 3, **SETTINGS)
    with pytest.raises(_Interrupt):
        train(
            broken, loader, 3, checkpoint=tmp_path / "run",
            on_epoch=_interrupt_after(1), **SETTINGS,
        )  # fmt: skip
    torch.manual_seed(1234)
    train(resumed, loader, 3, checkpoint=tmp_path / "run", **SETTINGS)
    assert _same(_weights(whole), _weights(resumed))


def test_runs_differ_by_seed_alone_and_leave_the_global_random_state():
    models = [_net() for _ in range(3)]
    state = torch.get_rng_state()
    for model, seed in zip(models, (1, 1, 2), strict=True):
        train(model, _data(), 1, seed=seed, **SETTINGS)
    first, again, other = (_weights(model) for model in models)
    assert _same(first, again)
    assert not _same(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_callable_gives_each_epoch_its_data():
    given = []

    def samples(epoch):
        given.append(epoch)
        return _data(seed=epoch)

    train(_net(), samples, 3, **SETTINGS)
    assert given == [1, 2, 3]


@pytest.mark.parametrize(
    "change", [{"lr": 0.02}, {"freeze": ("0",)}, {"batch_size": 8}, {"epochs": 5}, {"seed": 3}]
)
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path, change):
    arguments = SETTINGS | {"epochs": 2, "checkpoint": tmp_path / "run"}
    train(_net(), _data(), **arguments)
    with pytest.raises(CheckpointError, match=f"run is of another run.*{next(iter(change))}: "):
        train(_net(), _data(), **(arguments | change))


def test_a_checkpoint_of_another_start_model_or_data_is_refused(tmp_path):
    arguments = SETTINGS | {"epochs": 1, "checkpoint": tmp_path / "run"}
    train(_net(), _data(), **arguments)
    with pytest.raises(CheckpointError, match="other starting weights or training data"):
        train(_net(seed=1), _data(), **arguments)
    with pytest.raises(CheckpointError, match="other starting weights or training data"):
        train(_net(), _data(seed=5), **arguments)
    wider = _net()
    wider[4] = nn.Conv2d(4, 4, 3, bias=False)
    with pytest.raises(CheckpointError, match="unexpected 4.bias"):
        train(wider, _data(), **arguments)


def test_a_damaged_checkpoint_is_named(tmp_path):
    arguments = SETTINGS | {"epochs": 1, "checkpoint": tmp_path / "run"}
    train(_net(), _data(), **arguments)
    content = arguments["checkpoint"].read_bytes()
    arguments["checkpoint"].write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match="run is corrupt or truncated"):
        train(_net(), _data(), **arguments)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_freezing_freezes_weights_and_statistics(optimizer):
    model = _net()
    model[6].bias.requires_grad_(False)  # held by the caller; stays so
    before = _weights(model)
    settings = SETTINGS | {"weight_decay": 0.1, "optimizer": optimizer}
    train(model, _data(), 2, freeze=("0", "2"), **settings)
    moved = {key for key, tensor in model.state_dict().items() if not tensor.equal(before[key])}
    assert moved == {"4.weight", "4.bias", "6.weight"}
    held = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert held == ["6.bias"]


def test_freezing_an_unknown_part_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"\['conv9'\].*conv1, maxout1, conv2"):
        finetune(CharNet(), _data(), freeze=("conv1", "conv9"), **QUIET)
    with pytest.raises(ValueError, match="nothing to train"):
        train(nn.Sequential(nn.Linear(1, 1)), _data(), 1, freeze="0", **QUIET)


class _Scripted(nn.Module):
    """A model whose accuracy in evaluation follows a script; its weight counts its epochs."""

    def __init__(self, accuracies):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.accuracies, self.epochs = accuracies, 0
        self.register_buffer("epoch", torch.zeros(1))

    def forward(self, x):
        if self.training:
            self.epoch += 1
            return self.weight * x.flatten(1)[:, :2]
        right = round(self.accuracies[int(self.epoch) - 1] * len(x))
        logits = torch.zeros(len(x), 2)
        logits[:right, 0], logits[right:, 1] = 1, 1
        return logits


def _train_scripted(accuracies, **settings):
    model = _Scripted(accuracies)
    data = TensorDataset(torch.ones(10, 1, 2, 2), torch.zeros(10).long())
    history = train(model, data, len(accuracies), validation=data, **settings, **QUIET)
    return model, history


def test_the_weights_best_on_validation_come_back():
    model, history = _train_scripted([0.1, 0.6, 0.9, 0.9, 0.3])
    assert [row["val_accuracy"] for row in history] == [0.1, 0.6, 0.9, 0.9, 0.3]
    assert model.epoch.item() == 3  # the first of the best


def test_training_stops_when_patience_is_out():
    model, history = _train_scripted([0.5, 0.6, 0.6, 0.4, 0.9], patience=2)
    assert len(history) == 4
    assert model.epoch.item() == 2
    _, history = _train_scripted([0.5, 0.4, 0.6, 0.4, 0.9], patience=2)
    assert len(history) == 5


def test_a_diverging_run_says_so_and_its_checkpoint_keeps_the_last_good_epoch(tmp_path):
    model, batches = _net(), []

    def poison(images, generator):
        batches.append(len(images))
        if len(batches) > 4:
            model[6].weight.data.fill_(1e38)
        return images

    with pytest.raises(TrainingError, match="loss is .* at epoch 2, step 2.*lower lr than 0.01"):
        train(model, _data(), 3, augment=poison, checkpoint=tmp_path / "run", **SETTINGS)
    saved = load_checkpoint(tmp_path / "run")
    assert len(saved.state["history"]) == 1
    assert all(tensor.isfinite().all() for tensor in saved.model.values())


def test_images_that_augment_breaks_are_told():
    with pytest.raises(
        TrainingError, match="images at epoch 1, step 1 .* what augment makes of it"
    ):
        train(_net(), _data(), 1, augment=lambda images, _: images * torch.nan, **SETTINGS)


def test_weights_that_overflow_in_the_last_step_are_not_saved(tmp_path):
    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((2,), 1e15))

        def forward(self, x):
            return (self.weight * x.flatten(1)[:, :2]).square().clamp(max=1.0) * self.weight**2

    data = TensorDataset(torch.ones(2, 1, 2, 2), torch.tensor([0, 0]))
    with pytest.raises(TrainingError, match="weights are not finite|loss is"):
        train(Square(), data, 1, lr=1e38, clip_norm=None, checkpoint=tmp_path / "run", **QUIET)
    assert not (tmp_path / "run").exists()


def test_clipping_bounds_the_step():
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, CLASSES))
    before = _weights(model)
    settings = {"clip_norm": 0.5, "momentum": 0.0, "weight_decay": 0.0, "warmup": 0.0, "lr": 0.1}
    data = _data(10)
    data.tensors[0].mul_(100)
    train(model, data, 1, batch_size=10, background=None, **settings, **QUIET)
    change = [model.state_dict()[key] - before[key] for key in before]
    length = torch.cat([tensor.flatten() for tensor in change]).norm().item()
    assert length == pytest.approx(0.1 * 0.5, rel=1e-3)


def test_the_learning_rate_warms_up_and_falls_to_zero():
    rates = [Recipe(epochs=1, lr=1.0, warmup=0.1).lr_at(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] == pytest.approx((1 - math.cos(math.pi / 90)) / 2)
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
    constant = Recipe(epochs=1, lr=0.3, schedule="constant", warmup=0.0)
    assert {constant.lr_at(step, 50) for step in range(50)} == {0.3}


def test_finetune_takes_the_settings_of_train():
    model = _net()
    rows = finetune(model, _data(), 2, lr=0.001, background=None, batch_size=16, **QUIET)
    assert len(rows) == 2
    assert max(row["lr"] for row in rows) <= 0.001


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"learning_rate": 1}, TypeError, r"\['learning_rate'\]; accepted: lr, optimizer"),
        ({"epochs": 0}, ValueError, "epochs must be an integer of at least 1, got 0"),
        ({"epochs": 1.5}, ValueError, "epochs must be an integer"),
        ({"lr": -1}, ValueError, "lr must be a number above 0, got -1"),
        ({"lr": math.nan}, ValueError, "lr must be"),
        ({"optimizer": "adam"}, ValueError, "optimizer must be 'sgd' or 'adamw', got 'adam'"),
        ({"momentum": 1.0}, ValueError, "momentum must be a number in"),
        ({"schedule": "step"}, ValueError, "schedule must be 'cosine' or 'constant'"),
        ({"clip_norm": 0}, ValueError, "clip_norm must be None or a number above 0"),
        ({"patience": 0}, ValueError, "patience must be None or an integer"),
        ({"batch_size": True}, ValueError, "batch_size must be an integer"),
        ({"label_smoothing": 1}, ValueError, "label_smoothing must be a number in"),
        ({"seed": -1}, ValueError, "seed must be an integer of at least 0"),
    ],
)
def test_impossible_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        train(_net(), _data(), **({"epochs": 1} | QUIET | settings))


def test_patience_needs_validation():
    with pytest.raises(ValueError, match="patience=3 needs validation data"):
        train(_net(), _data(), 5, patience=3, **SETTINGS)


def test_no_samples_is_an_error():
    with pytest.raises(ValueError, match="no samples"):
        train(_net(), TensorDataset(torch.zeros(0, 1, 12, 12), torch.zeros(0).long()), 1, **QUIET)


def test_a_recipe_is_frozen_and_of_plain_types():
    recipe = Recipe(3, freeze="conv1")
    assert recipe.freeze == ("conv1",)
    assert recipe.to_json()["freeze"] == ["conv1"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.lr = 1.0


def test_training_on_cuda_brings_the_model_home():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = _net()
    train(model, _data(), 1, validation=_data(), **(SETTINGS | {"device": "cuda"}))
    assert next(model.parameters()).device.type == "cpu"
