"""CharNet by the paper's method and by its rivals, at like multiply counts, on real characters.

    CPNB_DATA=... python benchmarks/rivals.py choose     # learning rates, clusters and metrics
    CPNB_DATA=... python benchmarks/rivals.py accuracy   # three seeds
    python benchmarks/rivals.py latency                  # needs no data

conv2 and conv3 are replaced at once and the entire net is fine-tuned, by one recipe for all. A
rival's ranks are those that come nearest to the multiplies of CP at the ranks R, layer by layer,
and to a milder reduction; CP has a rank more for its part. What was left open ("choose"), and by
which of its nets a method is judged, is chosen on the validation split. One record a run; runs that
the local records have already are not run again.
"""

import argparse
import copy
import functools
import time

import torch
from rival_ranks import CLUSTERS, dense_multiplies, multiplies, rank_at

import cpnb
from cpnb.layers.denton import BiclusteredConv2d
from cpnb.runs.records import plain

LAYERS = ("conv2", "conv3")
METHODS = ("nls", "greedy", "jaderberg-2", "jaderberg-1", "biclustering", "tucker")
CP = METHODS[:2]
LR, RATES = 0.01, (0.003, 0.01, 0.03)
OWN_LR = {}  # of methods that LR breaks; `choose` found none
METRIC = {"conv2": "plain", "conv3": "plain"}
CHOICES = ((1, 1), (2, 1), (2, 2), (4, 2))
CHOSEN_AT = 16.0  # times fewer multiplies


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("choose", "accuracy", "latency"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--ranks", type=int, nargs="+", default=[128, 64, 32], help="R of CP")
    parser.add_argument("--more-ranks", type=int, nargs="*", default=[96], help="R of CP alone")
    parser.add_argument("--factors", type=float, nargs="*", default=[5.0], help="of rivals")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dataset", default="chars74k")
    parser.add_argument("--train-size", type=int, default=8000, help="drawn characters an epoch")
    parser.add_argument("--test-size", type=int, help="by default the whole split")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--n-iter-max", type=int, default=100, help="steps of NLS")
    parser.add_argument("--seconds", type=float, default=0.3, help="of timing, each contender")
    parser.add_argument("--repeats", type=int, default=5, help="of timing all nets in turns")
    options = parser.parse_args(arguments)
    net = cpnb.load_charnet()
    {"choose": choose, "accuracy": accuracy, "latency": latency}[options.what](net, options)


def points(net, method: str, options) -> list[dict]:
    """Ranks by layer, one entry a net."""
    if method in CP:
        ranks = sorted({*options.ranks, *options.more_ranks}, reverse=True)
        return [dict.fromkeys(LAYERS, rank) for rank in ranks]
    wanted = [dict.fromkeys(LAYERS, factor) for factor in options.factors]
    for rank in options.ranks:
        convs = {name: net.get_submodule(name) for name in LAYERS}
        wanted.append(
            {n: dense_multiplies(c, n) / multiplies(c, n, "nls", rank) for n, c in convs.items()}
        )
    return [{n: rank_at(net, n, method, f) for n, f in factors.items()} for factors in wanted]


# The factored nets


def decomposed(net, method: str, ranks: dict, seed: int, options):
    """The net with its layers replaced; the rivals' fits do not depend on the seed."""
    if method in CP:
        own = {"n_iter_max": options.n_iter_max} if method == "nls" else {}
        return cpnb.decompose(net, ranks, method, random_state=seed, **own)
    if method == "biclustering":
        return _biclustered(net, tuple(ranks.items()), options.dataset)
    how, own = {
        "jaderberg-2": ("jaderberg", {"scheme": 2}),
        "jaderberg-1": ("jaderberg", {"scheme": 1}),
        "tucker": ("tucker", {}),
    }[method]
    return _fitted(net, how, tuple(ranks.items()), tuple(own.items()))


@functools.cache
def _fitted(net, how, ranks, own):
    return cpnb.decompose(net, dict(ranks), how, **dict(own))


@functools.cache
def _biclustered(net, ranks, dataset):
    for name, rank in ranks:
        net = biclustered(net, name, rank, CLUSTERS[name], METRIC[name], dataset)
    return net


def biclustered(net, name, rank, clusters, metric, dataset):
    weights = metric_of(name, metric, dataset)
    return cpnb.decompose(net, {name: rank}, "biclustering", clusters=clusters, **weights)


@functools.cache
def metric_of(name: str, metric: str, dataset: str) -> dict:
    """Denton's norms, from training data; clustering takes but the diagonal of a covariance."""
    if metric == "plain":
        return {}
    net, data = cpnb.load_charnet(), cpnb.load_dataset(dataset, "train")
    data = data.sample(min(1000, len(data)))
    if metric == "gradient":
        return cpnb.gradient_weights(net, name, data)
    return {"weight": cpnb.input_covariance(net, name, data).diagonal().diag()}


# The runs


def accuracy(net, options):
    example = torch.zeros(1, 1, 24, 24)
    test, validation = (
        cpnb.load_dataset(options.dataset, split, **sized(options))
        for split in ("test", "validation")
    )
    dense, baseline = cpnb.count_multiplies(net, example), scores(net, test)
    unseen = cpnb.accuracy(net, validation)
    for seed in options.seeds:
        samples = sampler(options, seed)
        for method in options.methods:
            lr = OWN_LR.get(method, LR)
            for ranks in points(net, method, options):
                key = {
                    "method": method, "ranks": list(ranks.values()), "seed": seed, "lr": lr,
                    "epochs": options.epochs, "dataset": options.dataset,
                    "train_size": options.train_size, "test_size": len(test),
                }  # fmt: skip
                if done("charnet-rivals", key):
                    continue
                start = time.perf_counter()
                small = copy.deepcopy(decomposed(net, method, ranks, seed, options))
                fitting, before = time.perf_counter() - start, scores(small, test)
                finetune(small, samples, options.epochs, lr, seed)
                after, count = scores(small, test), cpnb.count_multiplies(small, example)
                report(
                    "charnet-rivals", **key, layers=list(ranks),
                    rel_error=[small.get_submodule(n).rel_error for n in ranks],
                    degeneracy=[getattr(small.get_submodule(n), "degeneracy", None) for n in ranks],
                    accuracy_baseline=baseline[0], accuracy_decomposed=before[0],
                    accuracy_finetuned=after[0], accuracy_baseline_good=baseline[1],
                    accuracy_decomposed_good=before[1], accuracy_finetuned_good=after[1],
                    validation_size=len(validation), accuracy_baseline_validation=unseen,
                    accuracy_finetuned_validation=cpnb.accuracy(small, validation),
                    multiplies=count, multiplies_dense=dense, bound=dense / count,
                    parameters_factored=sum(p.numel() for p in small.parameters()),
                    seconds_fitting=fitting, seconds=time.perf_counter() - start,
                )  # fmt: skip


def sampler(options, seed: int):
    """Training data by epoch, drawn once for all methods."""
    return functools.cache(cpnb.training_samples(options.dataset, options.train_size, seed=seed))


def sized(options) -> dict:
    return {"size": options.test_size} if options.test_size else {}


def scores(model, data) -> tuple[float, float]:
    """Accuracy on all, and on the GoodImg part."""
    return cpnb.accuracy(model, data), cpnb.accuracy(model, data.subset(data.good))


def finetune(model, samples, epochs, lr, seed):
    cpnb.finetune(model, samples, epochs, lr=lr, seed=seed, channels_last=True, progress=False)


def latency(net, options):
    """All nets in one turn beside one dense net, several times over; a row a net and time.

    Factors are random: time does not depend on how good a fit is. CP by NLS and CP by greedy
    deflation are one architecture at equal ranks, and are timed as one.
    """
    example = torch.randn(64, 1, 24, 24)
    nets, about = {("dense", "factored"): net}, {}
    for method in [m for m in options.methods if m != "greedy"]:
        for ranks in points(net, method, options):
            small = with_random_factors(net, method, ranks)
            fast = cpnb.optimize_for_inference(small, example)
            label = method, *ranks.values()
            nets |= {(label, "factored"): small, (label, "optimised"): fast}
            about[label] = {"layers": list(ranks), "ranks": list(ranks.values())} | told_of(fast)
            about[label]["multiplies"] = cpnb.count_multiplies(small, example)
    dense = cpnb.count_multiplies(net, example)
    for repeat in range(options.repeats):
        found = cpnb.measure_fastest(nets, example, seconds=options.seconds)
        base = found["dense", "factored"][1]
        for label, row in about.items():
            times = {kind: found[label, kind][1] for kind in ("factored", "optimised")}
            ratios = {kind: cpnb.speedup(base, time) for kind, time in times.items()}
            report(
                "charnet-rivals-latency", method=label[0], repeat=repeat, batch=len(example),
                input=list(example.shape), multiplies_dense=dense, speedup=ratios["factored"],
                latencies=times | {"dense": base}, bound=dense / row["multiplies"],
                speedup_optimised=max(ratios.values()), **row,
            )  # fmt: skip


def told_of(fast) -> dict:
    """What was chosen; biclustering sorts its maps, and its layers are left as they are."""
    chosen = {" + ".join(c.names): c.path for c in fast.report.choices}
    return {"chosen": chosen, "fused": any(names.startswith(LAYERS) for names in chosen)}


def with_random_factors(net, method: str, ranks: dict):
    """The factored net in the shapes that the method gives it, quickly."""
    if method == "biclustering":
        net = copy.deepcopy(net)
        for name, rank in ranks.items():
            conv, (g, h) = net.get_submodule(name), CLUSTERS[name]
            s, t = conv.in_channels, conv.out_channels
            factors = (
                torch.arange(s) % g, torch.arange(t) % h, torch.randn(g, h, rank, s // g),
                torch.randn(g, h, rank, 1, *conv.kernel_size), torch.randn(g, h, rank, t // h),
            )  # fmt: skip
            with torch.no_grad():
                setattr(net, name, BiclusteredConv2d(conv, rank, [factors]))
        return net
    method, _, scheme = method.replace("greedy", "nls").partition("-")
    own = {"scheme": int(scheme)} if scheme else {}
    steps = {} if scheme == "2" else {"n_iter_max": 1}
    return cpnb.decompose(net, ranks, method, **own, **steps)


def choose(net, options):
    """Validation accuracy: after one epoch at three learning rates; of clusters and metrics."""
    data = cpnb.load_dataset(options.dataset, "validation", **sized(options))
    samples = sampler(options, options.seeds[0])
    for method in options.methods:
        ranks = points(net, method, options)[-2:][0]  # the last but one: neither mild nor extreme
        for lr in RATES:
            key = {"method": method, "ranks": list(ranks.values()), "lr": lr}
            if done("charnet-rivals-choice", key):
                continue
            small = copy.deepcopy(decomposed(net, method, ranks, options.seeds[0], options))
            before = cpnb.accuracy(small, data)
            finetune(small, samples, 1, lr, options.seeds[0])
            report(
                "charnet-rivals-choice", **key, accuracy_decomposed=before, test_size=len(data),
                accuracy_finetuned=cpnb.accuracy(small, data), dataset=options.dataset,
            )  # fmt: skip
    for name in LAYERS if "biclustering" in options.methods else ():
        for clusters in CHOICES:
            for metric in ("plain", "covariance", "gradient"):
                key = {"method": "biclustering", "layer": name, "clusters": list(clusters)}
                key["metric"] = metric
                if done("charnet-rivals-choice", key):
                    continue
                conv = net.get_submodule(name)
                CLUSTERS[name], chosen = clusters, CLUSTERS[name]
                rank = rank_at(net, name, "biclustering", CHOSEN_AT)
                count = multiplies(conv, name, "biclustering", rank)
                CLUSTERS[name] = chosen
                small = biclustered(net, name, rank, clusters, metric, options.dataset)
                report(
                    "charnet-rivals-choice", **key, rank=rank, dataset=options.dataset,
                    factor=dense_multiplies(conv, name) / count, test_size=len(data),
                    rel_error=small.get_submodule(name).rel_error,
                    accuracy_decomposed=cpnb.accuracy(small, data),
                )  # fmt: skip


def done(claim: str, key: dict) -> bool:
    return bool(cpnb.recorded(cpnb.results_path(), claim=claim, **plain(key)))


def report(claim, **row):
    print(claim, row, flush=True)
    cpnb.record(claim, **row)


if __name__ == "__main__":
    main()
