"""Weights and training checkpoints as safetensors files, written all or not at all.

A file holds named tensors and a JSON header; pickle is never read or written. Every file is written
beside its target, flushed and renamed, so that an interrupted run leaves the previous file whole.
"""

import contextlib
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cpnb.data.files import what_it_is
from cpnb.runs.records import plain

FORMAT = "cpnb-checkpoint-1"


class CheckpointError(RuntimeError):
    """A file of weights or a checkpoint that cannot be read, or fits neither model nor recipe."""


@dataclass
class Checkpoint:
    """All that is needed to go on with a training run as if it had never stopped.

    Attributes
    ----------
    model, best
        State dicts: the weights after the last whole epoch, and the best ones on validation (None
        without validation data).
    optimizer
        The optimizer's `state_dict()`.
    state
        What else the run must remember (recipe, epoch, history); JSON types only.
    """

    model: dict[str, Tensor]
    optimizer: dict
    best: dict[str, Tensor] | None = None
    state: dict = field(default_factory=dict)


def save_weights(model: nn.Module, path, metadata: dict | None = None) -> None:
    """Write the model's weights to `path` (safetensors), with JSON-able `metadata`, atomically."""
    header = {key: json.dumps(value) for key, value in plain(metadata or {}, "metadata").items()}
    _write(path, model.state_dict(), header)


def load_weights(model: nn.Module, path) -> dict:
    """Load weights written by `save_weights` into `model`, in place; return the file's metadata.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If the file is corrupt or truncated, or if a tensor is missing, left over, or of another
        shape than the model's: then all of these are listed, and the model is left untouched.
    """
    tensors, metadata = read_weights(path)
    # Other libraries' files often lack BatchNorm's counters, which no evaluation reads.
    counters = {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    tensors = counters | tensors
    check_fit(model, tensors, path)
    model.load_state_dict(tensors)
    return metadata


def read_weights(path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and metadata of a safetensors file; errors are those of `load_weights`."""
    tensors, header = _read(path)
    return tensors, {key: _decode(value) for key, value in header.items()}


def names_in(path) -> list[str]:
    """Names of the tensors of a safetensors file; errors are those of `load_weights`."""
    return list(_read(path)[0])


def load_shipped(model: nn.Module, path, shipped: Path, how: str) -> nn.Module:
    """``model`` in evaluation mode with the weights of ``path``, by default of the file that ships.

    Raises
    ------
    FileNotFoundError
        If there is no such file; the message says ``how`` to come by one.
    CheckpointError
        As `load_weights`.
    """
    path = shipped if path is None else Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no trained {type(model).__name__} at {path}; {how}")
    load_weights(model, path)
    return model.eval()


def save_checkpoint(path, checkpoint: Checkpoint) -> None:
    """Write a `Checkpoint` to one safetensors file, atomically."""
    tensors = {f"model.{key}": tensor for key, tensor in checkpoint.model.items()}
    tensors |= {f"best.{key}": tensor for key, tensor in (checkpoint.best or {}).items()}
    # An optimizer's state is {parameter number: {name: tensor or plain value}}.
    plain = {}
    for index, entries in checkpoint.optimizer["state"].items():
        for name, value in entries.items():
            key = f"optimizer.{index}.{name}"
            (tensors if isinstance(value, Tensor) else plain)[key] = value
    header = {
        "format": FORMAT,
        "optimizer": json.dumps(
            {"param_groups": checkpoint.optimizer["param_groups"], "state": plain}
        ),
        "state": json.dumps(checkpoint.state),
    }
    _write(path, tensors, header)


def load_checkpoint(path) -> Checkpoint:
    """Read a file written by `save_checkpoint`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If the file is corrupt or truncated, or is no checkpoint (plain weights, for example).
    """
    tensors, header = _read(path)
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is no training checkpoint (format {header.get('format')!r}, expected "
            f"{FORMAT!r}); weights alone are read by load_weights"
        )
    optimizer, state = json.loads(header["optimizer"]), json.loads(header["state"])
    entries = optimizer["state"] | _strip(tensors, "optimizer.", keep_prefix=True)
    optimizer["state"] = {}
    for key, value in entries.items():
        _, index, name = key.split(".", 2)
        optimizer["state"].setdefault(int(index), {})[name] = value
    return Checkpoint(
        model=_strip(tensors, "model."),
        best=_strip(tensors, "best.") or None,
        optimizer=optimizer,
        state=state,
    )


def check_fit(model: nn.Module, tensors: dict[str, Tensor], path) -> None:
    """Raise a `CheckpointError` listing every tensor of `tensors` that does not fit `model`."""
    expected = model.state_dict()
    faults = [f"missing {key}" for key in expected if key not in tensors]
    faults += [f"unexpected {key}" for key in tensors if key not in expected]
    faults += [
        f"{key} has shape {tuple(tensors[key].shape)}, the model's is {tuple(expected[key].shape)}"
        for key in expected
        if key in tensors and tensors[key].shape != expected[key].shape
    ]
    if faults:
        raise CheckpointError(f"{path} does not fit the model: " + "; ".join(faults))


def _strip(tensors: dict[str, Tensor], prefix: str, keep_prefix: bool = False) -> dict[str, Tensor]:
    cut = 0 if keep_prefix else len(prefix)
    return {key[cut:]: value for key, value in tensors.items() if key.startswith(prefix)}


def _decode(value: str):
    """A header entry of ours is JSON; one written by another program may be any text."""
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _write(path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    # A copy each: safetensors takes neither shared nor channels_last storage.
    copies = {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in tensors.items()
    }
    data = safetensors.torch.save(copies, metadata=header)
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's files are for their owner alone
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _read(path) -> tuple[dict[str, Tensor], dict[str, str]]:
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            return tensors, dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{path} is corrupt or truncated, or no safetensors file ({error}): "
            f"{what_it_is(path)}; "
            "delete it and run again, or restore it from where it came from"
        ) from error
