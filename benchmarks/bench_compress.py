"""Whole nets compressed without labels: a plan of ranks against one rate for all layers.

    CPNB_DATA=... python benchmarks/bench_compress.py resnet20 --weights resnet20.safetensors
    CPNB_DATA=... python benchmarks/bench_compress.py squeezenet --factors 2 3
    python benchmarks/bench_compress.py charnet --factors 2 3 4
    python benchmarks/bench_compress.py resnet18 --factors 2.4 --images 128    # how long it takes

Both get the same fits (`cpnb.compress`) at the same number of multiplies. ResNets see a random
sample of CIFAR-10's training images, as they are and mirrored; the drop is counted on its 10,000
test images. CharNet sees drawn characters, and is tested on 10,000 others. SqueezeNet's 3×3 layers
are fitted to one half of the ImageNet sample and evaluated on the other, and the other way round;
its factors count multiplies in those layers alone. Of torchvision's ResNet-18 (224², random weights
and images) the time alone is measured. One record a net, factor, seed and allocation.
"""

import argparse
import time
from pathlib import Path

import torch
from torch.utils.data import TensorDataset
from torchvision.models import resnet18

import cpnb
from cpnb.nets.squeezenet import expand_layers
from cpnb.training.divergence import divergence

NETS = ("resnet20", "resnet56", "charnet", "squeezenet", "resnet18")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("net", choices=NETS)
    parser.add_argument("--weights", help="safetensors file; by default the one among the data")
    parser.add_argument("--factors", type=float, nargs="+", default=[1.9, 2.7, 3.7, 5.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--allocations", nargs="+", default=["plan", "one rate"])
    parser.add_argument("--save-to", help="keep the planned nets: a path with {factor}")
    options = parser.parse_args()
    {"squeezenet": squeezenet, "resnet18": duration}.get(options.net, trained)(options)


def trained(options):
    """Small nets: a random sample of training images, all test images."""
    if options.net == "charnet":
        net, dataset, size = cpnb.load_charnet(options.weights), "characters", {"size": 10_000}
    else:
        depth = int(options.net.removeprefix("resnet"))
        net, dataset, size = cpnb.load_cifar_resnet(depth, options.weights), "cifar10", {}
    train, test = (cpnb.load_dataset(dataset, split, **size) for split in ("train", "test"))
    dense = cpnb.accuracy(net, test)
    for seed in options.seeds:
        generator = torch.Generator().manual_seed(seed)
        chosen = train.images[torch.randperm(len(train), generator=generator)[: options.images]]
        # A mirrored letter is another one, or none.
        data = chosen if options.net == "charnet" else torch.cat([chosen, chosen.flip(3)])
        start = time.perf_counter()
        plan = cpnb.plan(net, data[:64], data, multiplies=0.9)
        seconds_plan = time.perf_counter() - start
        for factor in options.factors:
            for how in options.allocations:
                found = plan.within(1 / factor) if how == "plan" else one_rate(plan, factor)
                small, row = compressed(net, found, data, how)
                accuracy = cpnb.accuracy(small, test)
                if options.save_to and how == "plan":
                    cpnb.save_factored(small, options.save_to.format(factor=factor, seed=seed))
                record(
                    options, row, factor=factor, seed=seed, accuracy_dense=dense, accuracy=accuracy,
                    drop=dense - accuracy, test_size=len(test), dataset=dataset,
                    images=options.images, seconds_plan=seconds_plan,
                )  # fmt: skip


def squeezenet(options):
    net = cpnb.load_squeezenet()
    files = cpnb.load_dataset("imagenet-sample", "test")
    images, labels = (torch.stack([torch.as_tensor(x[i]) for x in files]) for i in (0, 1))
    halves = [torch.arange(len(labels)) % 2 == fold for fold in (0, 1)]
    dense = cpnb.topk_accuracy(net, TensorDataset(images, labels))
    layers = expand_layers(net)
    plans = [
        cpnb.plan(net, images[:1], images[half], multiplies=0.95, layers=layers) for half in halves
    ]
    for factor in options.factors:
        for how in options.allocations:
            found, rows = {1: 0.0, 5: 0.0}, []
            for plan, half in zip(plans, halves, strict=True):
                inside = sum(plan.layers[name].multiplies.dense for name in layers)
                share = 1 - inside / plan.multiplies_dense * (1 - 1 / factor)
                ranks = plan.within(share) if how == "plan" else one_rate(plan, 1 / share)
                small, row = compressed(net, ranks, images[half], how)
                top = cpnb.topk_accuracy(small, TensorDataset(images[~half], labels[~half]))
                weight = float((~half).float().mean())
                found = {k: found[k] + weight * top[k] for k in found}
                rows.append(row)
            row = rows[0] | {"seconds": sum(r["seconds"] for r in rows)}
            record(
                options, row, factor=factor, seed=0, accuracy_dense=dense[5], accuracy=found[5],
                drop=dense[5] - found[5], top1_drop=dense[1] - found[1], test_size=len(labels),
                dataset="imagenet-sample", images=int(halves[0].sum()),
            )  # fmt: skip


def duration(options):
    """Of plan and compression. Random kernels have no structure that a solver could be quick at."""
    torch.manual_seed(0)
    net = resnet18(weights=None).eval()
    data = torch.randn(options.images, 3, 224, 224)
    for factor in options.factors:
        start = time.perf_counter()
        plan = cpnb.plan(net, data[:1], data, multiplies=1 / factor)
        planned = time.perf_counter()
        cpnb.compress(net, plan, data)
        row = {
            "net": options.net,
            "factor": factor,
            "images": options.images,
            "seconds_plan": planned - start,
            "seconds_compress": time.perf_counter() - planned,
        }
        print(row)
        cpnb.record("compress-seconds", **row, method="compress")


def compressed(net, plan, data, how):
    """The compressed net, and what came of it but for its accuracy."""
    start = time.perf_counter()
    small = cpnb.compress(net, plan, data)
    return small, {
        "allocation": how,
        "ranks": plan.ranks,
        "methods": sorted(set(plan.methods.values())),
        "multiplies": plan.multiplies,
        "multiplies_dense": plan.multiplies_dense,
        "expected": plan.loss,
        "divergence": divergence(small, net, data),
        "seconds": time.perf_counter() - start,
    }


def one_rate(plan, factor):
    """All layers that the plan may factor, cut by one and the same rate."""
    low, high = 1.0, 100.0
    for _ in range(50):
        rate = (low + high) / 2
        found = plan.within(0.99)
        found.ranks = {
            name: max(1, int(layer.multiplies.dense / rate / layer.multiplies.each))
            for name, layer in plan.layers.items()
            if layer.curve
        }
        low, high = (
            (rate, high) if found.multiplies * factor > plan.multiplies_dense else (low, rate)
        )
    return found


def record(options, row, **columns):
    row = {"net": options.net, "method": "compress"} | row | columns
    print({key: value for key, value in row.items() if key != "ranks"}, flush=True)
    given = vars(options) | {"weights": Path(options.weights or "").name, "save_to": None}
    cpnb.record("compress", **row, parameters={"argv": given})


if __name__ == "__main__":
    main()
