"""Compressed ResNets fine-tuned with all labels: what training adds to a fit without labels.

    CPNB_DATA=... python benchmarks/bench_compress.py resnet20 --weights W --save-to "{factor}-{seed}.safetensors"
    CPNB_DATA=... python benchmarks/finetune_compressed.py resnet20 --weights W --factors 3.7 --epochs 5

A factor of 1 is the dense net, trained as long: what training alone adds. With `--teacher` the
dense net's answers count beside the labels. An epoch of ResNet-20 takes two to three minutes on a
CPU core, of ResNet-56 seven, with a teacher up to eleven. Each run writes a checkpoint after each epoch and goes on from there
when it is started again. One record a run.
"""  # noqa: E501

import argparse
import copy
from pathlib import Path

import cpnb
from cpnb.data.images import flip_and_crop
from cpnb.training.distillation import SHARE, TEMPERATURE

RECIPE = {"warmup": 0.05, "weight_decay": 5e-4, "channels_last": True}
TAUGHT = {"share": SHARE, "temperature": TEMPERATURE}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("net", choices=("resnet20", "resnet56"))
    parser.add_argument("--weights", help="of the dense net; by default those among the data")
    parser.add_argument("--compressed", default="{factor}-{seed}.safetensors", help="files to tune")
    parser.add_argument("--factors", type=float, nargs="+", default=[2.7, 3.7, 5.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--teacher", action="store_true", help="learn from the dense net too")
    options = parser.parse_args()
    net = cpnb.load_cifar_resnet(int(options.net.removeprefix("resnet")), options.weights)
    train, test = (cpnb.load_dataset("cifar10", split) for split in ("train", "test"))
    dense = cpnb.accuracy(net, test)
    for factor in options.factors:
        for seed in options.seeds:
            path = Path(options.compressed.format(factor=factor, seed=seed))
            small = copy.deepcopy(net) if factor == 1 else cpnb.load_factored(net, path)
            before = cpnb.accuracy(small, test)
            run = f".{options.epochs}-epochs{'-taught' if options.teacher else ''}.safetensors"
            history = cpnb.finetune(
                small, train, options.epochs, lr=options.lr, seed=seed, augment=flip_and_crop,
                teacher=net if options.teacher else None, checkpoint=path.with_suffix(run),
                **RECIPE,
            )  # fmt: skip
            accuracy = cpnb.accuracy(small, test)
            row = {
                "net": options.net,
                "factor": factor,
                "seed": seed,
                "epochs": options.epochs,
                "teacher": options.teacher,
                "accuracy_dense": dense,
                "accuracy_compressed": before,
                "accuracy_finetuned": accuracy,
                "drop": dense - accuracy,
                "test_size": len(test),
                "dataset": "cifar10",
                "seconds": sum(epoch["seconds"] for epoch in history),
            }
            print(row, flush=True)
            parameters = RECIPE | {"lr": options.lr} | (TAUGHT if options.teacher else {})
            cpnb.record("compress-finetune", **row, method="nls", parameters=parameters)


if __name__ == "__main__":
    main()
