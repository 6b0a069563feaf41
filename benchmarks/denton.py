"""Denton et al.'s settings of single layers: multiplies, weights, the speed of the layer alone.

    python benchmarks/denton.py        # seconds; needs no data

Their net had other layers than any here, so these are AlexNet's sizes (conv2 without groups).
Factors are random and accuracy is not touched: that would take their net and ImageNet. One record a
part.
"""

import argparse

import torch
from torch import nn

import cpnb

COLOURS, CLUSTERS, TERMS = 6, (48, 2), 6  # C′; G and H, K
SINGULAR_VALUES = {"fc6": 250, "fc7": 350, "fc8": 250}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=16, help="images at a time")
    parser.add_argument("--seconds", type=float, default=1.0, help="of timing, each contender")
    options = parser.parse_args(arguments)
    with torch.no_grad():
        layers(options.batch, options.seconds)


def layers(batch: int, seconds: float):
    net = cpnb.AlexNet()
    labels = torch.arange(96) % COLOURS
    grey = torch.randn(96, *net.conv1.kernel_size)
    small = cpnb.MonochromaticConv2d(net.conv1, COLOURS, [(labels, torch.randn(COLOURS, 3), grey)])
    convolution("conv1", "AlexNet's conv1", net.conv1, small, (batch, 3, 227, 227), seconds)

    conv, (g, h) = nn.Conv2d(96, 256, 5, padding=2), CLUSTERS
    factors = (
        torch.arange(96) % g, torch.arange(256) % h, torch.randn(g, h, TERMS, 96 // g),
        torch.randn(g, h, TERMS, 1, 5, 5), torch.randn(g, h, TERMS, 256 // h),
    )  # fmt: skip
    small = cpnb.BiclusteredConv2d(conv, TERMS, [factors])
    shape = (batch, 96, 27, 27)
    convolution("conv2", "AlexNet's conv2 without groups", conv, small, shape, seconds)

    factors = []
    for name, rank in SINGULAR_VALUES.items():
        linear = net.get_submodule(name)
        small = cpnb.SVDLinear(linear, rank)
        factors.append(
            linear.weight.numel() / (small.first.weight.numel() + small.last.weight.numel())
        )
    what = "AlexNet's fc6, fc7 and fc8"
    report(part="linear", what=what, ranks=list(SINGULAR_VALUES.values()), factors=factors)


def convolution(part, what, dense, small, shape, seconds):
    example = torch.randn(shape)
    found = cpnb.measure_fastest({"dense": dense, "factored": small}, example, seconds=seconds)
    times = {name: latency for name, (_, latency) in found.items()}
    counts = {
        name: cpnb.count_multiplies(layer, example)
        for name, layer in (("dense", dense), ("factored", small))
    }
    report(
        part=part, what=what, input=list(shape), multiplies=counts, latencies=times,
        layouts={name: layout for name, (layout, _) in found.items()},
        bound=counts["dense"] / counts["factored"],
        speedup=cpnb.speedup(times["dense"], times["factored"]),
    )  # fmt: skip


def report(**row):
    print(row, flush=True)
    cpnb.record("rivals-counts", **row)


if __name__ == "__main__":
    main()
