"""The training loop behind `finetuning`: one run, epoch by epoch, saved and resumed."""

import contextlib
import math
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpnb.nets.weights import (
    Checkpoint,
    CheckpointError,
    check_fit,
    load_checkpoint,
    save_checkpoint,
)
from cpnb.training.batches import batches, count_batches
from cpnb.training.distillation import prepared, taught
from cpnb.training.evaluation import background_class, count_hits, evaluate, logits_of
from cpnb.training.fastconv import fast_convolutions
from cpnb.training.gradients import recordable, require_trainable
from cpnb.training.recipe import Recipe, optimizer_for
from cpnb.training.signature import first_samples, same_signature, signature
from cpnb.training.team import Alone

History = list[dict]


class TrainingError(RuntimeError):
    """Training cannot go on: images, loss or weights are not finite."""


class Run:
    """The state of one training run between epochs."""

    def __init__(
        self, model, loader, recipe: Recipe, validation, augment, teacher, device, team: Alone
    ):
        self.model, self.loader, self.recipe, self.team = model, loader, recipe, team
        self.validation, self.augment, self.device = validation, augment, device
        self._made = (0, None)  # the data that a callable loader made last, and for which epoch
        if recipe.patience is not None and validation is None:
            raise ValueError(f"patience={recipe.patience} needs validation data")
        # What is wrong with the data is said before the first epoch, not after it.
        if validation is not None and not next(batches(validation, 1, name="validation"), None):
            raise ValueError("validation has no samples")
        require_trainable(model)
        data = self._data(1)
        self.steps = count_batches(data, recipe.batch_size)
        if not self.steps:
            raise ValueError("loader has no samples")
        self.layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.teacher = None if teacher is None else prepared(teacher, device, self.layout)
        given = [m for m in (model, self.teacher) if m is not None]
        weights = [value for m in given for value in m.state_dict().values()]
        self.start = signature(weights + first_samples(data))
        model.to(device, memory_format=self.layout)
        self.forward = team.wrapped(model)
        self.optimizer = optimizer_for(model, recipe)
        self.history: History = []
        self.best: dict[str, Tensor] | None = None

    @property
    def epoch(self) -> int:
        return len(self.history)

    @property
    def finished(self) -> bool:
        return self.epoch == self.recipe.epochs or self.out_of_patience

    @property
    def out_of_patience(self) -> bool:
        if self.recipe.patience is None or not self.history:
            return False
        return self.epoch - self.best_row["epoch"] >= self.recipe.patience

    @property
    def best_row(self) -> dict:
        """The first of the rows with the highest validation accuracy."""
        return max(self.history, key=lambda row: row["val_accuracy"])

    def _data(self, epoch: int):
        if not callable(self.loader):
            return self.loader
        if self._made[0] != epoch:
            self._made = (epoch, self.loader(epoch))
        return self._made[1]

    def one_epoch(self, bar) -> dict:
        epoch, start = self.epoch + 1, time.perf_counter()
        with fast_convolutions(self.model):
            row = {"epoch": epoch, "seconds": 0.0} | self._pass_over_data(epoch, bar)
        self.team.align(self.model)
        _require_finite(self.model, epoch, self.recipe)
        if self.validation is not None:
            background, data = self.recipe.background, self.validation
            loss, share = evaluate(self.model, data, self.device, background, name="validation",
                                   team=self.team)  # fmt: skip
            row |= {"val_loss": loss, "val_accuracy": share}
        row["seconds"] = time.perf_counter() - start
        self.history.append(row)
        if self.validation is not None and self.best_row is row:
            self.best = _copy(self.model.state_dict())
        return row

    def _pass_over_data(self, epoch: int, bar) -> dict:
        # All randomness of an epoch follows from (seed, epoch): nothing to save for resuming.
        seed = self.recipe.seed * 1_000_003 + epoch
        torch.manual_seed(seed)
        # What is drawn for the images differs between processes, as their shares do.
        generator = torch.Generator(self.device).manual_seed(seed + 7919 * self.team.rank)
        _train_mode(self.model, self.recipe.freeze)
        loss = correct = counted = seen = 0
        data = batches(
            self._data(epoch), self.recipe.batch_size, shuffle=True, seed=seed, part=self.team.part
        )
        for step, (images, labels) in enumerate(data):
            layout = self.layout if images.ndim == 4 else torch.contiguous_format
            images = images.to(self.device, memory_format=layout, non_blocking=True)
            labels = labels.to(self.device, non_blocking=True)
            images, labels = recordable(images), recordable(labels)
            if self.augment is not None:
                images = self.augment(images, generator)
            found = self._step(images, labels, epoch, step)
            loss, correct, counted, seen = map(
                sum, zip((loss, correct, counted, seen), found, strict=True)
            )
            bar.update()
            bar.set_postfix(self._postfix(epoch, loss / seen), refresh=False)
        if not seen:
            raise ValueError(f"loader has no samples for epoch {epoch}")
        return {
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": loss / seen,
            "train_accuracy": correct / max(1, counted),
        }

    def _step(self, images: Tensor, labels: Tensor, epoch: int, step: int) -> tuple:
        """One step on a batch: its summed loss, hits, samples that count, and all samples.

        Of a team each process has a share of the batch, and all of them get the sums.
        """
        recipe = self.recipe
        lr = recipe.lr_at((epoch - 1) * self.steps + step, recipe.epochs * self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        logits = self._logits(images, labels)
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        if self.teacher is not None:
            loss = taught(loss, logits, self.teacher, images)
        left_out = background_class(recipe.background, self._data(epoch), logits.shape[1])
        hits, counted = count_hits(logits.detach(), labels, left_out)
        own = len(labels)
        total, hits, counted, seen = self.team.total(loss.item() * own, hits, counted, own)
        if not math.isfinite(total):
            raise self._not_finite(images, total / seen, epoch, step)
        self.optimizer.zero_grad()
        # The processes' gradients are averaged, whatever their shares: this makes it a mean
        # over the samples. Exactly 1 for one process alone.
        (loss * (own * self.team.size / seen)).backward()
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        return total, hits, counted, seen

    def _logits(self, images: Tensor, labels: Tensor) -> Tensor:
        try:
            return logits_of(self.forward, images, labels)
        except ValueError as error:
            if len(images) > 1 or "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                "loader gives a batch of one sample, of which BatchNorm cannot take a variance; "
                f"choose another batch_size than {self.recipe.batch_size}, so that none is left "
                "over, or give a DataLoader with drop_last=True"
            ) from error

    def _not_finite(self, images: Tensor, loss: float, epoch: int, step: int) -> TrainingError:
        """What is to blame for the loss."""
        where = f"at epoch {epoch}, step {step + 1}"
        if not images.isfinite().all():
            or_augment = "" if self.augment is None else ", or in what augment makes of it"
            return TrainingError(
                f"the images {where} are not finite; look for NaN or Inf in loader{or_augment}"
            )
        if epoch == 1 and step == 0:
            return TrainingError(
                f"the loss is {loss} before the first step, of finite images: the model's weights "
                "are too large, or not finite"
            )
        return _diverged(f"the loss is {loss} {where}", self.recipe)

    def _postfix(self, epoch: int, loss: float) -> dict:
        postfix = {"epoch": f"{epoch}/{self.recipe.epochs}", "loss": f"{loss:.3f}"}
        if self.history and self.validation is not None:
            postfix["val"] = f"{self.history[-1]['val_accuracy']:.1%}"
        return postfix

    def save(self, path) -> None:
        if self.team.leads:
            self._write(path)
        self.team.wait()

    def _write(self, path) -> None:
        state = {
            "recipe": self._identity(),
            "start": self.start,
            "history": self.history,
        }
        model, optimizer = self.model.state_dict(), self.optimizer.state_dict()
        save_checkpoint(path, Checkpoint(model, optimizer, self.best, state))

    def resume(self, path) -> None:
        saved = load_checkpoint(path)
        check_fit(self.model, saved.model, path)
        self._check_recipe(saved.state, path)
        self.model.load_state_dict(saved.model)
        self.optimizer.load_state_dict(saved.optimizer)
        _match_layout(self.optimizer)
        self.history, self.best = saved.state["history"], saved.best

    def _identity(self) -> dict:
        return self.recipe.to_json() | {
            "batches an epoch": self.steps,
            "validation": self.validation is not None,
        }

    def _check_recipe(self, state: dict, path) -> None:
        ours, theirs = self._identity(), state["recipe"]
        differing = [
            f"{key}: {theirs.get(key)!r} there, {ours.get(key)!r} here"
            for key in sorted(ours | theirs)
            if ours.get(key) != theirs.get(key)
        ]
        if not same_signature(state["start"], self.start):
            differing.append("other starting weights or training data")
        if differing:
            raise CheckpointError(
                f"{path} is of another run ({'; '.join(differing)}); use the same settings to "
                "resume it, or another path, or delete it to start afresh"
            )


@contextlib.contextmanager
def frozen(model: nn.Module, names: tuple[str, ...]):
    """Hold the named parts' parameters still within the block."""
    parts = dict(model.named_modules())
    unknown = [name for name in names if not name or name not in parts]
    if unknown:
        known = ", ".join(name for name, _ in model.named_children())
        raise ValueError(f"freeze names no part of the model: {unknown}; its parts are: {known}")
    held = [p for name in names for p in parts[name].parameters() if p.requires_grad]
    try:
        for parameter in held:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def _train_mode(model: nn.Module, frozen: tuple[str, ...]) -> None:
    model.train()
    for name in frozen:
        model.get_submodule(name).eval()  # running statistics stay too


@contextlib.contextmanager
def forked_random_state(device: torch.device):
    """Leave the global random state as it was."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def _require_finite(model: nn.Module, epoch: int, recipe: Recipe) -> None:
    broken = [
        name for name, parameter in model.named_parameters() if not parameter.isfinite().all()
    ]
    if broken:
        raise _diverged(f"after epoch {epoch} weights are not finite ({broken[0]})", recipe)


def _diverged(what: str, recipe: Recipe) -> TrainingError:
    clip = recipe.clip_norm
    advice = "set clip_norm=1.0" if clip is None else f"a smaller clip_norm than {clip:g}"
    return TrainingError(f"{what}; try a lower lr than {recipe.lr:g}, or {advice}")


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.detach().clone() for key, tensor in state.items()}


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Give loaded moments their parameter's memory layout, as they had when they were saved."""
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter).copy_(value)
