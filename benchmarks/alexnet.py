"""conv2 of the small AlexNet: CP by rank and method, then fine-tuned on CIFAR-10.

    python benchmarks/alexnet.py kernel                      # errors alone; needs no data
    CPNB_DATA=... python benchmarks/alexnet.py finetune --ranks 200 140

"kernel" fits conv2 per group by each method and seed, and as the authors' block-diagonal tensor at
the rank that costs no more; "finetune" replaces conv2 and trains the whole net further. One record
each.
"""

import argparse
import time

import torch

import cpnb
from cpnb.alexnet import block_diagonal, load_small_alexnet
from cpnb.images import flip_and_crop

MAPS = (1, 96, 8, 8)
FITS = {
    "nls": {},
    "nls-plain": {"max_degeneracy": None},
    "als": {},
    "greedy": {},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("kernel", "finetune"))
    parser.add_argument("--ranks", type=int, nargs="+", default=[140, 200, 300])
    parser.add_argument("--methods", nargs="+", choices=FITS, default=["nls", "greedy"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--n-iter-max", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.004)
    parser.add_argument("--block-diagonal", action="store_true")
    options = parser.parse_args()
    net = load_small_alexnet()
    for rank in options.ranks:
        for method in options.methods:
            for seed in options.seeds:
                (kernel if options.what == "kernel" else finetune)(net, rank, method, seed, options)


def settings(method, seed, options) -> dict:
    return FITS[method] | {"n_iter_max": options.n_iter_max, "random_state": seed}


def kernel(net, rank, method, seed, options):
    conv, x = net.conv2, torch.randn(MAPS)
    start, chosen = time.perf_counter(), rank
    if options.block_diagonal:
        conv = block_diagonal(conv)
        (s, t), d = (conv.in_channels, conv.out_channels), 5
        chosen = rank * (s + 4 * d + t) // (s + 2 * d + t)  # as many multiplies as R in each group
    layer = cpnb.CPConv2d.from_conv(
        conv, chosen, method.split("-")[0], **settings(method, seed, options)
    )
    dense = cpnb.count_multiplies(net.conv2, x)
    report(
        "alexnet-conv2", method=method, rank=chosen, seed=seed, rel_error=layer.rel_error,
        degeneracy=layer.degeneracy, multiplies=cpnb.count_multiplies(layer, x),
        bound=dense / cpnb.count_multiplies(layer, x), block_diagonal=options.block_diagonal,
        n_iter_max=options.n_iter_max, seconds=time.perf_counter() - start,
    )  # fmt: skip


def finetune(net, rank, method, seed, options):
    test = cpnb.load_dataset("cifar10", "test")
    before = cpnb.accuracy(net, test)
    small = cpnb.decompose(
        net, {"conv2": rank}, method.split("-")[0], **settings(method, seed, options)
    )
    after = cpnb.accuracy(small, test)
    train, start = cpnb.load_dataset("cifar10", "train"), time.perf_counter()
    cpnb.finetune(
        small, train, options.epochs, lr=options.lr, augment=flip_and_crop, channels_last=True,
        label_smoothing=0.1, seed=seed, progress=False, on_epoch=lambda row: print(row, flush=True),
    )  # fmt: skip
    example = torch.randn(1, 3, 32, 32)
    dense, fast = (cpnb.count_multiplies(model, example) for model in (net, small))
    report(
        "alexnet-finetune", method=method, rank=rank, seed=seed, dataset="cifar10",
        train_size=len(train), test_size=len(test), rel_error=small.conv2.rel_error,
        degeneracy=small.conv2.degeneracy, accuracy_baseline=before, accuracy_decomposed=after,
        accuracy_finetuned=cpnb.accuracy(small, test), multiplies=fast, bound=dense / fast,
        epochs=options.epochs, lr=options.lr, seconds=time.perf_counter() - start,
    )  # fmt: skip


def report(claim, **row):
    print(row, flush=True)
    cpnb.record(claim, **row, parameters={})


if __name__ == "__main__":
    main()
