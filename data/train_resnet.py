"""Train a CIFAR ResNet, or go on with a trained one (the one that ships: 10 minutes on one core).

    python data/train_resnet.py                                             # on drawn characters
    CPNB_DATA=... python data/train_resnet.py --dataset cifar10 --epochs 3 \\
        --start cifar10-resnets/resnet20.safetensors --lr 0.03 --save-to resnet20.safetensors

A copy of CIFAR-10 that was saved as JPEG differs from the images that public weights were trained
on; three epochs on the copy make up for a part of it. The run writes a checkpoint after each epoch
and goes on from there when it is started again. The weights of the last epoch are kept.
"""

import argparse
from pathlib import Path

import torch

import cpnb
from cpnb.data.characters import data_root
from cpnb.data.images import flip_and_crop
from cpnb.nets.resnet import RESNET_WEIGHTS, CifarResNet

RECIPE = {"warmup": 0.1, "weight_decay": 5e-4, "channels_last": True}
LOCAL = Path(__file__).resolve().parents[1] / "results" / "local"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", choices=("characters", "cifar10"), default="characters")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--start", help="weights to start from, a path where data sets lie")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-to", default=RESNET_WEIGHTS)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    characters = options.dataset == "characters"
    if options.start:
        model = cpnb.load_cifar_resnet(options.depth, data_root() / options.start)
    else:
        model = CifarResNet(options.depth, *((37, 1) if characters else (10, 3)))
    data = cpnb.training_samples() if characters else cpnb.load_dataset("cifar10", "train")
    checkpoint = LOCAL / f"resnet{options.depth}-{options.dataset}-checkpoint.safetensors"
    history = cpnb.train(
        model, data, options.epochs, lr=options.lr, seed=options.seed, checkpoint=checkpoint,
        augment=None if characters else flip_and_crop, progress=False,
        on_epoch=lambda row: print(row, flush=True), **RECIPE,
    )  # fmt: skip
    test = cpnb.load_dataset(options.dataset, "test")
    row = {
        "accuracy_test": cpnb.accuracy(model, test),
        "test_size": len(test),
        "dataset": options.dataset,
        "net": f"resnet{options.depth}",
        "start": options.start,
        "epochs": options.epochs,
        "seed": options.seed,
        "seconds": sum(epoch["seconds"] for epoch in history),
    }
    print(row)
    cpnb.record("resnet-baseline", **row, method="dense", parameters=RECIPE | {"lr": options.lr})
    cpnb.save_weights(model, options.save_to, row)


if __name__ == "__main__":
    main()
