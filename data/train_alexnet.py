"""Train the small AlexNet that ships in data/: about 10 minutes on 2 CPU cores.

    CPNB_DATA=... python data/train_alexnet.py

CIFAR-10 is looked for as `cpnb.load_dataset("cifar10", ...)` says. The run writes a checkpoint
after each epoch and goes on from there when it is started again; with --minutes it stops by itself
after the epoch in which they have passed. The weights of the last epoch are kept, so neither
validation nor test data take part in the training; both accuracies are told at the end.
"""

import argparse
import time
from pathlib import Path

import torch

import cpnb
from cpnb.data.images import flip_and_crop
from cpnb.nets.alexnet import SMALL_WEIGHTS, SmallAlexNet

RECIPE = {
    "lr": 0.1,
    "warmup": 0.2,
    "weight_decay": 5e-4,
    "label_smoothing": 0.1,
    "clip_norm": None,
    "channels_last": True,
}
LOCAL = Path(__file__).resolve().parents[1] / "results" / "local"


class OutOfTime(Exception):
    """The time for this session of the run is over."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", help="folder of the data (default: CPNB_DATA)")
    parser.add_argument("--epochs", type=int, default=11)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--checkpoint", default=LOCAL / "alexnet-checkpoint.safetensors")
    parser.add_argument("--save-to", default=SMALL_WEIGHTS)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model = SmallAlexNet()
    data = cpnb.load_dataset("cifar10", "train", options.root)
    start = time.monotonic()

    def on_epoch(row):
        print(" ".join(f"{key}={value:.4g}" for key, value in row.items()), flush=True)
        if row["epoch"] < options.epochs and time.monotonic() - start > 60 * options.minutes:
            raise OutOfTime

    try:
        history = cpnb.train(
            model, data, options.epochs, augment=flip_and_crop, checkpoint=options.checkpoint,
            on_epoch=on_epoch, seed=options.seed, progress=False, **RECIPE,
        )  # fmt: skip
    except OutOfTime:
        print("stopped; the same command goes on from the checkpoint")
        return
    row = {
        f"accuracy_{split}": cpnb.accuracy(model, cpnb.load_dataset("cifar10", split, options.root))
        for split in ("validation", "test")
    }
    row |= {
        "dataset": "cifar10",
        "train_size": len(data),
        "test_size": 10_000,
        "epochs": options.epochs,
        "seed": options.seed,
        "seconds": sum(epoch["seconds"] for epoch in history),
    }
    print(row)
    cpnb.record("alexnet-baseline", **row, method="dense", parameters=RECIPE)
    cpnb.save_weights(model, options.save_to, row)


if __name__ == "__main__":
    main()
