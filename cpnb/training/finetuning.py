"""Training and fine-tuning classifiers: one plain PyTorch loop for both.

Fine-tuning the entire network after a layer was decomposed is the second half of the paper's method
(Lebedev et al., arXiv 1412.6553). A run is a function of its recipe, its data and its
starting weights alone, and may be interrupted and resumed at any epoch.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from cpnb.training.evaluation import accuracy, device_of, pick_device
from cpnb.training.gradients import gradients
from cpnb.training.loop import History, Run, TrainingError, forked_random_state, frozen
from cpnb.training.recipe import Recipe
from cpnb.training.team import device_for, team

__all__ = ["History", "TrainingError", "accuracy", "finetune", "pick_device", "train"]


def train(
    model: nn.Module,
    loader,
    epochs: int,
    *,
    validation=None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    teacher: nn.Module | None = None,
    on_epoch: Callable[[dict], None] | None = None,
    checkpoint=None,
    device=None,
    progress: bool = True,
    **settings,
) -> History:
    """Train `model` in place and return one row of measurements an epoch.

    Under ``accelerate launch`` (Hugging Face Accelerate; extra `accelerate`) the same call trains
    with several GPUs or machines: each process takes its share of every batch, which is as large
    as for one; gradients are those of the whole batch, the checkpoint and `on_epoch` are the first
    process's. Statistics of BatchNorm are those of a process's own share, as in PyTorch's
    DistributedDataParallel.

    Parameters
    ----------
    model : nn.Module
        Maps images (N, C, H, W) to logits (N, classes), or to an output that names them `logits`,
        by which alone it is trained: auxiliary outputs take no part. It comes back on the device
        it came on, contiguous (NCHW), in evaluation mode and, if there is validation data, with
        the weights that did best on it.
    loader : Dataset, DataLoader or callable
        Pairs (images, class numbers) or dicts of them; labels may also be (N, 1) or one-hot. Of
        the package's own data sets and a TensorDataset batches are cut directly, which is faster
        than a DataLoader. A callable is given the epoch (from 1) and returns the data for it: fresh
        samples.
    epochs : int
        Passes over the data.
    validation : Dataset or DataLoader, optional
        Evaluated after every epoch.
    augment : callable, optional
        `augment(images, generator) -> images`, applied to every training batch on the training
        device; the seeded generator, on the same device, is its source of randomness.
    teacher : nn.Module, optional
        A trained network of the same classes, such as the one that `model` was made from. Its
        answers for the augmented images are half of the loss, at temperature 4 (Hinton et
        al., 2015), the labels the rest. Stays as it is.
    on_epoch : callable, optional
        Called with the new row of the history after every epoch.
    checkpoint : path-like, optional
        File written after every epoch. If it exists the run goes on from there, and ends with the
        weights it would have had without the interruption; a finished run is only loaded. It is
        told from other runs by its recipe, its starting weights, the number of batches and, where
        the data are tensors in memory, the first of them.
    device : torch.device or str, optional
        By default `pick_device()`; that of the process where several were launched.
    progress : bool
        Show a progress bar.
    **settings
        The other fields of `Recipe`: lr, optimizer, momentum, weight_decay, schedule, warmup,
        label_smoothing, clip_norm, patience, freeze, batch_size, channels_last, background, seed.

    Returns
    -------
    list of dict
        Keys: epoch (from 1), seconds, lr (of its last step), train_loss, train_accuracy (over the
        augmented batches, as the weights change) and, with validation data, val_loss and
        val_accuracy. Accuracies are shares, 0 to 1.

    Raises
    ------
    TrainingError
        If images, loss or weights are infinite or NaN; the checkpoint, if any, keeps the last good
        epoch.
    TypeError, ValueError
        Of impossible settings, data or models: data without a length, labels that are no class
        numbers of the model's, a batch of one where there is BatchNorm, a model made in inference
        mode; a teacher of other classes.
    CheckpointError
        If the checkpoint is damaged, of another model or of another recipe.
    """
    recipe = Recipe.from_settings(epochs, settings)
    home = device_of(model)
    group = team()
    device = device_for(group, device) or pick_device()
    try:
        with gradients(), frozen(model, recipe.freeze), forked_random_state(device):
            run = Run(model, loader, recipe, validation, augment, teacher, device, group)
            if checkpoint is not None and Path(checkpoint).expanduser().exists():
                run.resume(checkpoint)
            quiet = not (progress and group.leads)
            total, done = epochs * run.steps, run.epoch * run.steps
            with tqdm(total=total, initial=done, unit="batch", disable=quiet) as bar:
                while not run.finished:
                    row = run.one_epoch(bar)
                    if checkpoint is not None:
                        run.save(checkpoint)
                    if on_epoch is not None and group.leads:
                        on_epoch(dict(row))
            if run.best is not None:
                model.load_state_dict(run.best)
    finally:
        model.to(home, memory_format=torch.contiguous_format).eval()
    return run.history


FINETUNE = {"lr": 0.01, "weight_decay": 1e-4}


def finetune(
    model: nn.Module, loader, epochs: int = 5, *, only_above: str | None = None, **arguments
) -> History:
    """Fine-tune the entire network after decomposition: `train` with gentler defaults.

    A smaller learning rate and a weaker weight decay: a decomposed layer multiplies four factors,
    so that a step of ordinary length can be much too long for it. Parameters and result are those
    of `train`; `freeze=("conv1",)` holds named parts still.

    Parameters
    ----------
    only_above : str, optional
        Train only the layers after the one of this name, as Denton et al. (2014) do after each
        approximation: it and all before it, in the order of `model.named_modules()`, stay.
    """
    if only_above is not None:
        held = arguments.get("freeze", ())
        held = (held,) if isinstance(held, str) else tuple(held)
        arguments["freeze"] = held + parts_up_to(model, only_above)
    return train(model, loader, epochs, **(FINETUNE | arguments))


def parts_up_to(model: nn.Module, name: str) -> tuple[str, ...]:
    """Names of the layers with parameters up to the one of that name, its own parts included.

    Raises
    ------
    ValueError
        There is no such layer, or none after it has parameters to train.
    """
    layers = [n for n, m in model.named_modules() if n and next(m.parameters(recurse=False), None)
              is not None]  # fmt: skip
    own = [n for n in layers if n == name or n.startswith(f"{name}.")]
    if not own:
        raise ValueError(
            f"only_above={name!r} is no layer with parameters; these are: {', '.join(layers)}"
        )
    end = layers.index(own[-1]) + 1
    if end == len(layers):
        raise ValueError(f"only_above={name!r} is the last layer: there is none above to train")
    return tuple(layers[:end])
