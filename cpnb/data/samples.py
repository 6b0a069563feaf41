"""What CharNet is trained and fine-tuned on: new characters every epoch."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cpnb.data.characters import CharacterDataset, augment, concatenate, load_dataset

BACKGROUND_SHARE = 0.03  # of the drawn patches; about one class's share, so that all 37 are learnt


def training_samples(
    dataset: str = "characters", rendered: int = 10_000, copies: int = 2, seed: int = 0, root=None
) -> Callable[[int], CharacterDataset]:
    """Training data by epoch, for :func:`cpnb.train` and :func:`cpnb.finetune`.

    Parameters
    ----------
    dataset : str
        "characters": drawn characters alone. Any other name: its training split on top of them.
    rendered : int
        Drawn characters an epoch, new ones in each; 0 leaves them out.
    copies : int
        How often each real patch appears in an epoch, differently jittered each time.
    seed : int
    root : path, optional
        See :func:`cpnb.load_dataset`.

    Returns
    -------
    callable
        ``samples(epoch)`` -> CharacterDataset; the same for the same epoch and seed.

    Raises
    ------
    ValueError
        Nothing to train on: ``rendered`` 0 without a real data set or with ``copies`` 0.
    """
    real = None if dataset == "characters" else load_dataset(dataset, "train", root)
    if not rendered and (real is None or not copies):
        raise ValueError(
            f"nothing to train on: dataset={dataset!r}, rendered={rendered}, copies={copies}"
        )

    def samples(epoch: int) -> CharacterDataset:
        stream = 1_000 * int(seed) + int(epoch)
        parts = []
        if rendered:
            drawn = {"size": rendered, "seed": stream, "background": BACKGROUND_SHARE}
            parts.append(load_dataset("characters", "train", **drawn))
        if real is not None:
            generator = torch.Generator().manual_seed(stream)
            jittered = [augment(real.images, generator) for _ in range(copies)]
            parts += [CharacterDataset(images, real.labels, real.good) for images in jittered]
        return concatenate(*parts)

    return samples
