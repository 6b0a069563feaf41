"""AlexNet's conv2 decomposed, and the entire network fine-tuned on ImageNet, by any number of GPUs.

    CPNB_DATA=... .venv/bin/python benchmarks/alexnet_imagenet.py --ranks 200 140
    CPNB_DATA=... .venv/bin/accelerate launch --num_processes 8 benchmarks/alexnet_imagenet.py \\
        --ranks 200 140

What section 6 of notebook 07 does, but for the latencies, as a script that Hugging Face Accelerate
can launch (pip install -e .[accelerate]); several machines: `--num_machines` and what `accelerate
config` asks. A batch is as large for eight processes as for one. A checkpoint is written after each
epoch, and any number of processes goes on from there. Loading and decoding images limits a machine
with fast GPUs: each process loads its own share. One record a rank, by the first process.
"""

import argparse
import copy
import functools
import time
from pathlib import Path

import cpnb


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", default="torchvision", help="or a safetensors file")
    parser.add_argument("--root", help="folder of the images; by default CPNB_DATA")
    parser.add_argument("--ranks", type=int, nargs="+", default=[200])
    parser.add_argument("--method", default="nls", choices=("nls", "als", "greedy"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=0.004)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--size", type=int, help="images of each split (default: all)")
    parser.add_argument("--checkpoints", type=Path, default=Path("."))
    options = parser.parse_args(arguments)
    train, test = (
        cpnb.load_dataset("imagenet-sample", split, options.root, size=options.size)
        for split in ("train", "test")
    )
    net, layer = cpnb.open_alexnet(options.weights)
    device = cpnb.pick_device()
    dense = cpnb.topk_accuracy(net, test, device=device)
    for rank in options.ranks:
        start = time.perf_counter()
        small = cpnb.decompose(net, {layer: rank}, options.method, random_state=0)
        decomposed = cpnb.topk_accuracy(copy.deepcopy(small), test, device=device)
        cpnb.finetune(
            small, train, options.epochs, lr=options.lr, batch_size=options.batch_size,
            augment=functools.partial(cpnb.flip_and_crop, pad=28), channels_last=True,
            checkpoint=options.checkpoints / f"{layer}-{rank}.safetensors",
        )  # fmt: skip
        row = {"rank": rank, "rel_error": small.get_submodule(layer).rel_error}
        for k, share in cpnb.topk_accuracy(small, test, device=device).items():
            row |= {f"top{k}_dense": dense[k], f"top{k}_decomposed": decomposed[k]}
            row[f"top{k}_finetuned"] = share
        cpnb.record(
            "alexnet-imagenet", **row, layer=layer, method=options.method,
            test_size=len(test), train_size=len(train), seconds=time.perf_counter() - start,
            epochs=options.epochs, lr=options.lr, batch_size=options.batch_size,
        )  # fmt: skip
        print(row, flush=True)


if __name__ == "__main__":
    main()
