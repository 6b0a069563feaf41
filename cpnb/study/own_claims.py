"""What this package does that the paper did not try: figures of ours, beside the paper's claims."""

from __future__ import annotations

from statistics import median

from cpnb.study.findings import Claim, Finding, counted, speedups
from cpnb.study.machines import cpu
from cpnb.study.selection import chosen, grouped, newest, newest_code

MEASURED = "measured, not a claim of the paper"


def compressed(net: str, factor: float):
    """A whole network fitted to images without labels, before any training."""

    def finding(rows):
        runs = newest(
            [r for r in chosen(rows, claim="compress", net=net, allocation="plan")
             if r["factor"] == factor], "seed",
        )  # fmt: skip
        if not runs:
            return None
        drops = [100 * r["drop"] for r in runs]
        ranged = f", {min(drops):.2f} to {max(drops):.2f}" if len(runs) > 1 else ""
        here = (
            f"{runs[0]['accuracy_dense']:.1%} → {median(r['accuracy'] for r in runs):.1%} at "
            f"{factor} times fewer multiplies: drop {median(drops):.2f} points (median of "
            f"{counted(len(runs), 'sample')} of {runs[0]['images']} images{ranged}), planned "
            f"and fitted in {median(r['seconds_plan'] + r['seconds'] for r in runs):.0f} s; "
            "CIFAR-10, JPEG copy"
        )
        brief = (
            f"drop {median(drops):.2f} points, CIFAR-10, JPEG copy (median of "
            f"{counted(len(runs), 'sample')}{ranged})"
        )
        return Finding(here, MEASURED, runs, brief)

    return finding


def fastest(case: str):
    """A whole network in its fastest runtime, dense and factored, on each kind of processor."""

    def finding(rows):
        runs = chosen(rows, claim="inference", case=case, device="cpu", threads=2)
        runs = newest_code(runs, "cpu", "simd")
        if not runs:
            return None
        told = [f"{speedups(same)} on {cpu(same[0])}" for same in grouped(runs, "cpu", "simd")]
        peers = [r["speedup_of_peers"] for r in runs]
        low, high = f"{min(peers):.1f}", f"{max(peers):.1f}"
        here = (
            f"{', '.join(told)} over the fastest dense net of all runtimes, at "
            f"{runs[-1]['bound']:.2f} times fewer multiplies; the best of the others on the "
            f"factored net: {low if low == high else f'{low} to {high}'}×"
        )
        return Finding(here, MEASURED, runs)

    return finding


COMPRESS = (
    "CPNB_DATA=... .venv/bin/python benchmarks/bench_compress.py resnet20 --seeds 0 1 2 "
    "--weights resnet20-jpeg.safetensors (data/README says how to make this file)"
)
NETWORKS = ".venv/bin/python benchmarks/bench_inference.py --threads 2 --only 'ResNet-18*' 'VGG*'"

OWN_CLAIMS = [
    Claim("ResNet-20 by a plan for the whole net, no labels and no training", "–", "O",
          compressed("resnet20", 1.9), COMPRESS,
          short="ResNet-20 at 1.9 times fewer multiplies, no training"),
    Claim("ResNet-18 on a 224×224 image, CPU", "–", "O",
          fastest("ResNet-18, 224x224, batch 1"), NETWORKS),
    Claim("VGG-16-BN on a 224×224 image, CPU", "–", "O",
          fastest("VGG-16-BN, 224x224, batch 1"), NETWORKS),
]  # fmt: skip
