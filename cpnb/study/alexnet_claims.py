"""The claims of AlexNet's conv2, answered by ``benchmarks/alexnet.py`` and notebook 07.

ImageNet's images are rarely at hand. Without them the accuracy is that of a small net with the same
conv2, and the speed that of the real layer on random maps.
"""

from __future__ import annotations

from statistics import mean

from cpnb.study.commands import ALEXNET_FINETUNE, ALEXNET_KERNEL
from cpnb.study.findings import FAILS, HOLDS, NO, OTHER, Claim, Finding, by_seed, counted
from cpnb.study.machines import cpu

UNTIMED = "accuracy kept by another method; its speed was not measured"
ON_ANOTHER_NET = "accuracy kept by another method, on a small net and other data"


def _newest(rows: list[dict], *keys: str, **wanted) -> list[dict]:
    """The newest of the rows that have these values, for each value of the keys."""
    runs = [r for r in rows if all(r.get(k) == v for k, v in wanted.items())]
    return list({tuple(r.get(k) for k in keys): r for r in runs}.values())


def _speed(runs: list[dict]) -> str:
    told = [f"{r['speedup_optimised']:.1f}× (batch {r['batch']})" for r in runs]
    return (
        f"the real conv2, optimised, is {', '.join(told)} as fast as dense in PyTorch, at "
        f"{runs[0]['bound']:.2f} times fewer multiplies"
    )


def _reached(runs: list[dict], speed: float) -> str:
    """ "reached", "not reached", or at which of the batches."""
    at = [r["batch"] for r in runs if r["speedup_optimised"] >= speed]
    if len(at) in (0, len(runs)):
        return "reached" if at else "not reached"
    return f"reached at batch {', '.join(map(str, at))} alone"


def on_imagenet(rows):
    """The paper's own claim: only with ImageNet's images."""
    runs = _newest(rows, claim="alexnet-imagenet", method="nls")[-1:]
    if not runs:
        return None
    run = runs[0]
    after = run["top5_finetuned"] if run["top5_finetuned"] is not None else run["top5_decomposed"]
    drop = 100 * (run["top5_dense"] - after)
    speed = run.get("speedup_optimised")  # the script for several GPUs times nothing
    here = (
        f"bounded NLS, R={run['rank']}: {run['layer']} "
        f"{f'{speed:.1f}× as fast' if speed else 'not timed'}; top-5 {run['top5_dense']:.1%} → "
        f"{after:.1%} on {run['test_size']} images"
    )
    if speed is None:
        return Finding(here, UNTIMED if drop <= 1 else NO, runs)
    return Finding(here, OTHER if drop <= 1 and speed >= 4 else NO, runs)


def small_alexnet(rank: int, speed: float):
    """The claim at one rank: accuracy on the small AlexNet, speed of the real layer."""

    def finding(rows):
        runs = _newest(rows, "seed", claim="alexnet-finetune", method="nls", rank=rank)
        if not runs:
            return None
        before, after = (
            mean(r[key] for r in runs) for key in ("accuracy_baseline", "accuracy_finetuned")
        )
        chosen = all(r.get("lr_chosen_on") == "validation" for r in runs)
        here = (
            f"bounded NLS; a small AlexNet with the same conv2, on CIFAR-10 (JPEG copy): "
            f"{before:.1%} → {after:.1%} top-1 after fine-tuning{by_seed(runs)}, learning rate "
            f"chosen on {'validation' if chosen else 'test'} images; relative error of the kernel "
            f"{mean(r['rel_error'] for r in runs):.2f}"
        )
        kept = 100 * (before - after) <= 1
        timed = _newest(rows, "batch", claim="alexnet-latency", rank=rank)
        if not timed:
            return Finding(here, ON_ANOTHER_NET if kept else FAILS, runs)
        verdict = (
            f"{ON_ANOTHER_NET}; speed {_reached(timed, speed)} on {cpu(timed[0])}, one run a batch"
        )
        return Finding(f"{here}; {_speed(timed)}", verdict if kept else FAILS, runs + timed)

    return finding


def nls_against_greedy(rows):
    """Plain NLS's worst seed against greedy's best, on the trained small AlexNet's conv2."""
    runs = _newest(rows, "method", "rank", "seed", claim="alexnet-conv2", block_diagonal=False)
    runs = [r for r in runs if r["n_iter_max"] == runs[-1]["n_iter_max"]]
    errors: dict = {}
    for run in runs:
        errors.setdefault((run["rank"], run["method"]), []).append(run["rel_error"])
    ranks = sorted(
        rank for rank, method in errors if method == "nls-plain" and (rank, "greedy") in errors
    )
    if not ranks:
        return None
    told, better, alone = [], True, []
    for rank in ranks:
        ours, theirs = errors[rank, "nls-plain"], errors[rank, "greedy"]
        seeds = counted(len(ours), "seed")
        if len(ours) != len(theirs):
            seeds += f" and {counted(len(theirs), 'seed')}"
        told.append(f"R={rank}: {mean(ours):.3f} / {mean(theirs):.3f} ({seeds})")
        better &= max(ours) < min(theirs)
        alone += [str(rank)] * (len(ours) == 1)
    here = f"relative error of conv2, plain NLS / greedy: {', '.join(told)}"
    used = [r for r in runs if r["rank"] in ranks and r["method"] in ("nls-plain", "greedy")]
    verdict = f"{HOLDS}, plain NLS's worst seed against greedy's best"
    verdict += f"; one seed of plain NLS at R={', '.join(alone)}" if alone else ""
    return Finding(here, verdict if better else FAILS, used)


ON_IMAGENET = (
    ".venv/bin/python -m cpnb sweep notebooks/07_alexnet.ipynb -p weights "
    "/path/to/caffe-alexnet.safetensors -p dataset imagenet-sample -p ranks [140,200] -p epochs 1"
)
NO_IMAGENET = "not tested yet: needs AlexNet and ImageNet"
NO_ALEXNET = "not tested yet: no run recorded"

ALEXNET_CLAIMS = [
    Claim("AlexNet conv2", "4×, top-5 error +1%", "C", on_imagenet, ON_IMAGENET, NO_IMAGENET,
          short="AlexNet's conv2"),
    Claim("AlexNet conv2, R=200", "3.6× at ~0.5% drop", "U", small_alexnet(200, 3.6),
          ALEXNET_FINETUNE.format(200), NO_ALEXNET),
    Claim("AlexNet conv2, R=140", "4.5× at ~1% drop", "U", small_alexnet(140, 4.5),
          ALEXNET_FINETUNE.format(140), NO_ALEXNET),
    Claim("AlexNet conv2: NLS against greedy", "better at every rank", "U", nls_against_greedy,
          ALEXNET_KERNEL, NO_ALEXNET),
]  # fmt: skip
