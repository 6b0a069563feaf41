"""What a training run is made of: every setting that changes the resulting weights."""

import math
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class Recipe:
    """How to train; unknown and impossible settings are errors.

    Attributes
    ----------
    epochs : int
        Passes over the training data.
    lr : float
        Peak learning rate.
    optimizer : {"sgd", "adamw"}
        SGD with Nesterov momentum, or AdamW.
    momentum : float
        Of SGD only.
    weight_decay : float
        Not applied to biases.
    schedule : {"cosine", "constant"}
        Course of the learning rate after the warm-up; "cosine" falls to zero at the end.
    warmup : float
        Share of all steps, 0 to 1, over which the learning rate first rises linearly.
    label_smoothing : float
        Share of the target's probability spread over all classes.
    clip_norm : float, optional
        Longest gradient (L2 norm over all parameters); longer ones are scaled down to it. Without
        normalisation layers CharNet diverges easily unless this is on.
    patience : int, optional
        Stop after this many epochs in a row without a better validation accuracy.
    freeze : tuple of str
        Names of parts ("conv1", or dotted paths) whose weights and running statistics stay.
    batch_size : int
        For data given as a data set; a DataLoader has its own.
    channels_last : bool
        Memory layout while training.
    background : int, optional
        Class left out when accuracy is counted; by default what the data set says, see
        :func:`cpnb.accuracy`.
    seed : int
        Of the order of samples, augmentation and dropout.
    """

    epochs: int
    lr: float = 0.02
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup: float = 0.05
    label_smoothing: float = 0.0
    clip_norm: float | None = 1.0
    patience: int | None = None
    freeze: tuple[str, ...] = ()
    batch_size: int = 128
    channels_last: bool = False
    background: int | None = None
    seed: int = 0

    @classmethod
    def from_settings(cls, epochs: int, settings: dict) -> "Recipe":
        """A recipe from keyword arguments; a TypeError lists the known ones if one is unknown."""
        known = [field.name for field in fields(cls) if field.name != "epochs"]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise TypeError(f"unknown setting(s) {unknown}; accepted: {', '.join(known)}")
        return cls(epochs, **settings)

    def __post_init__(self):
        names = (self.freeze,) if isinstance(self.freeze, str) else tuple(self.freeze)
        object.__setattr__(self, "freeze", names)
        for name, value in list(vars(self).items()):
            if isinstance(value, np.generic):
                object.__setattr__(self, name, value.item())  # a checkpoint keeps JSON's types
        for name, (accepts, text) in _ACCEPTED.items():
            value = getattr(self, name)
            if not accepts(value):
                raise ValueError(f"{name} must be {text}, got {value!r}")

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of step `step` (from 0) of the run's `steps`."""
        step = min(step, steps - 1)  # a loader may give more batches than it announced
        warm = round(self.warmup * steps)
        if step < warm:
            return self.lr * (step + 1) / warm
        if self.schedule == "constant":
            return self.lr
        return self.lr * (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2

    def to_json(self) -> dict:
        """The settings in JSON's types."""
        return asdict(self) | {"freeze": list(self.freeze)}


def _is_int(value, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_share(value) -> bool:
    return _is_number(value) and 0 <= value < 1


_ACCEPTED = {
    "epochs": (lambda v: _is_int(v, 1), "an integer of at least 1"),
    "lr": (lambda v: _is_number(v) and v > 0, "a number above 0"),
    "optimizer": (lambda v: v in ("sgd", "adamw"), "'sgd' or 'adamw'"),
    "momentum": (_is_share, "a number in [0, 1)"),
    "weight_decay": (lambda v: _is_number(v) and v >= 0, "a number of at least 0"),
    "schedule": (lambda v: v in ("cosine", "constant"), "'cosine' or 'constant'"),
    "warmup": (_is_share, "a number in [0, 1)"),
    "label_smoothing": (_is_share, "a number in [0, 1)"),
    "clip_norm": (lambda v: v is None or (_is_number(v) and v > 0), "None or a number above 0"),
    "patience": (lambda v: v is None or _is_int(v, 1), "None or an integer of at least 1"),
    "batch_size": (lambda v: _is_int(v, 1), "an integer of at least 1"),
    "channels_last": (lambda v: isinstance(v, bool), "True or False"),
    "background": (lambda v: v is None or _is_int(v, 0), "None or a class number"),
    "seed": (lambda v: _is_int(v, 0), "an integer of at least 0"),
}


def optimizer_for(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser of what the model has to train; biases and norms do not decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError(f"nothing to train: freeze={recipe.freeze!r} holds every parameter still")
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, recipe.lr)
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(groups, recipe.lr, recipe.momentum, nesterov=nesterov)
