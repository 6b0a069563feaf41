"""conv2 of AlexNet: CP by rank and method, its latency, and fine-tuning on CIFAR-10.

    python benchmarks/alexnet.py kernel                      # errors alone; needs no data
    python benchmarks/alexnet.py kernel --block-diagonal
    python benchmarks/alexnet.py latency                     # of the real AlexNet's conv2; no data
    CPNB_DATA=... python benchmarks/alexnet.py tune --ranks 200
    CPNB_DATA=... python benchmarks/alexnet.py finetune --ranks 200 140 --seeds 0 1 2

"kernel" fits the small AlexNet's conv2 per group by each method and seed, or as the authors'
block-diagonal tensor at the rank that costs no more. "latency" times the dense layer, the factored
one and the optimised one in turns. "tune" fine-tunes at each learning rate and evaluates on the
validation part, 5,000 training images that are held back; "finetune" takes the rate that did best
there, and looks at the test images once. One record each; what is on record in $CPNB_RESULTS
already is not run again.
"""

import argparse
import copy
import time
from functools import cache
from statistics import mean

import torch
from torch import nn

import cpnb
from cpnb.data.images import flip_and_crop
from cpnb.nets.alexnet import block_diagonal, block_diagonal_rank, load_small_alexnet

MAPS = (96, 27, 27)  # what comes into conv2 of AlexNet
FITS = {
    "nls": {},
    "nls-plain": {"max_degeneracy": None},
    "als": {},
    "greedy": {},
}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("kernel", "latency", "tune", "finetune"))
    parser.add_argument("--ranks", type=int, nargs="+", default=[140, 200, 300])
    parser.add_argument("--methods", nargs="+", choices=FITS, default=["nls"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--n-iter-max", type=int, default=50)
    parser.add_argument("--block-diagonal", action="store_true")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing a contender")
    parser.add_argument("--epochs", type=int, help="default: 1 to tune, 2 to fine-tune")
    parser.add_argument("--lrs", type=float, nargs="+", default=[0.001, 0.004, 0.016])
    parser.add_argument("--size", type=int, help="images of each split (default: all)")
    options = parser.parse_args(arguments)
    options.epochs = options.epochs or (1 if options.what == "tune" else 2)
    if options.what == "latency":
        latencies(options)
        return
    run = {"kernel": kernel, "tune": tune, "finetune": finetune}[options.what]
    for rank in options.ranks:
        for method in options.methods:
            for seed in options.seeds:
                run(load_small_alexnet(), rank, method, seed, options)


def once(claim, key: dict, measure):
    """Record ``key`` and what ``measure`` returns, unless such a row is on record here."""
    if cpnb.recorded(cpnb.results_path(), claim=claim, **key):
        print(f"on record: {claim} {key}", flush=True)
        return
    start = time.perf_counter()
    row = key | measure()
    row.setdefault("seconds", time.perf_counter() - start)
    print(row, flush=True)
    cpnb.record(claim, **row, parameters={})


def solved(method, seed, options) -> dict:
    """Arguments of the solver."""
    return FITS[method] | {
        "method": method.split("-")[0], "n_iter_max": options.n_iter_max, "random_state": seed,
    }  # fmt: skip


def kernel(net, rank, method, seed, options):
    conv, x, chosen = net.conv2, torch.randn(1, *MAPS), rank
    dense = cpnb.count_multiplies(conv, x)
    if options.block_diagonal:
        conv, chosen = block_diagonal(conv), block_diagonal_rank(conv, rank)

    def measure():
        layer = cpnb.CPConv2d.from_conv(conv, chosen, **solved(method, seed, options))
        multiplies = cpnb.count_multiplies(layer, x)
        return {
            "rel_error": layer.rel_error, "degeneracy": layer.degeneracy,
            "multiplies": multiplies, "multiplies_dense": dense, "bound": dense / multiplies,
        }  # fmt: skip

    key = {
        "method": method, "rank": chosen, "rank_per_group": rank, "seed": seed,
        "block_diagonal": options.block_diagonal, "n_iter_max": options.n_iter_max,
    }  # fmt: skip
    once("alexnet-conv2", key, measure)


def latencies(options):
    """The factors are random: how good a fit is does not matter for time."""
    conv = nn.Conv2d(96, 256, 5, padding=2, groups=2)
    for batch in options.batches:
        for rank in options.ranks:
            x = torch.randn(batch, *MAPS)

            def measure(rank=rank, x=x):
                dense = nn.Sequential(conv, nn.ReLU()).eval()
                factored = nn.Sequential(cpnb.CPConv2d(conv, rank), nn.ReLU()).eval()
                fast = cpnb.optimize_for_inference(factored, x)
                nets = {"dense": dense, "factored": factored, "optimised": fast}
                found = cpnb.measure_fastest(nets, x, seconds=options.seconds)
                (_, base), *others = found.values()
                speedups = [cpnb.speedup(base, latency) for _, latency in others]
                return {
                    "bound": cpnb.count_multiplies(dense, x) / cpnb.count_multiplies(factored, x),
                    "speedup": speedups[0], "speedup_optimised": speedups[1],
                    "latencies": {name: latency for name, (_, latency) in found.items()},
                    "layouts": {name: layout for name, (layout, _) in found.items()},
                    "chosen": [choice.path for choice in fast.report.choices],
                }  # fmt: skip

            key = {"batch": batch, "rank": rank, "input": [batch, *MAPS]}
            once("alexnet-latency", key, measure)


@cache  # 60,000 small files: a few seconds each time
def cifar10(split, size):
    return cpnb.load_dataset("cifar10", split, size=size)


def training_key(rank, method, seed, options) -> dict:
    """What a fine-tuning run is a function of, its learning rate apart."""
    return {
        "method": method, "rank": rank, "seed": seed, "dataset": "cifar10",
        "epochs": options.epochs, "n_iter_max": options.n_iter_max,
    } | ({"size": options.size} if options.size else {})  # fmt: skip


def trained(net, rank, method, seed, options, lr):
    """The net with conv2 as it was decomposed, the fine-tuned one, and the number of images."""
    decomposed = cpnb.decompose(net, {"conv2": rank}, **solved(method, seed, options))
    small = copy.deepcopy(decomposed)
    train = cifar10("train", options.size)
    cpnb.finetune(
        small, train, options.epochs, lr=lr, augment=flip_and_crop, channels_last=True,
        label_smoothing=0.1, seed=seed, progress=False, on_epoch=lambda row: print(row, flush=True),
    )  # fmt: skip
    return decomposed, small, len(train)


def tune(net, rank, method, seed, options):
    validation = cifar10("validation", options.size)
    for lr in options.lrs:

        def measure(lr=lr):
            _, small, train_size = trained(net, rank, method, seed, options, lr)
            return {
                "accuracy_baseline_validation": cpnb.accuracy(net, validation),
                "accuracy_validation": cpnb.accuracy(small, validation),
                "train_size": train_size, "validation_size": len(validation),
            }  # fmt: skip

        once("alexnet-tune", training_key(rank, method, seed, options) | {"lr": lr}, measure)


def chosen_rate(method, size=None) -> tuple[float, dict]:
    """The learning rate of the highest mean validation accuracy, and all of these accuracies."""
    rows = cpnb.recorded(cpnb.results_path(), claim="alexnet-tune", method=method)
    rows = [r for r in rows if r.get("size") == size]
    found = {
        lr: mean(r["accuracy_validation"] for r in rows if r["lr"] == lr)
        for lr in sorted({r["lr"] for r in rows})
    }
    if not found:
        raise SystemExit(f"no learning rate is tried for {method!r} yet: run `tune` first")
    return max(found, key=found.get), found


def finetune(net, rank, method, seed, options):
    lr, tried = chosen_rate(method, options.size)

    def measure():
        decomposed, small, train_size = trained(net, rank, method, seed, options, lr)
        test = cifar10("test", options.size)
        validation = cifar10("validation", options.size)
        example = torch.randn(1, 3, 32, 32)
        dense, fast = (cpnb.count_multiplies(model, example) for model in (net, small))
        return {
            "train_size": train_size, "test_size": len(test), "validation_size": len(validation),
            "rel_error": small.conv2.rel_error, "degeneracy": small.conv2.degeneracy,
            "accuracy_baseline": cpnb.accuracy(net, test),
            "accuracy_decomposed": cpnb.accuracy(decomposed, test),
            "accuracy_finetuned": cpnb.accuracy(small, test),
            "accuracy_validation": cpnb.accuracy(small, validation),
            "multiplies": fast, "bound": dense / fast, "lr_chosen_on": "validation",
            "lrs_tried": {str(rate): accuracy for rate, accuracy in tried.items()},
        }  # fmt: skip

    key = training_key(rank, method, seed, options) | {"lr": lr}
    once("alexnet-finetune", key, measure)


if __name__ == "__main__":
    main()
