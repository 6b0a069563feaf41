"""Which CP fits of CharNet can be fine-tuned: accuracy against the degeneracy of the start.

    CPNB_DATA=... python benchmarks/bench_starts.py bounds   # bounded NLS by bound, and plain NLS
    CPNB_DATA=... python benchmarks/bench_starts.py plain    # what might save the plain NLS

Lebedev et al. (2015): conv2 at rank 64, the entire network fine-tuned, then conv3 likewise. Here on
Chars74K, one short epoch a layer (the training split and 500 drawn characters), so that many starts
can be compared: compare the rows with each other, not with the full pipeline. Accuracy is that of
the test split; nothing is chosen by it. "plain" is the paper's solver, without a bound on
degeneracy, and what its authors may have done: fewer steps, smaller learning rates, a random start
as in their public code, factors left as the solver scales them instead of balanced to equal norms.
One record a start, seed and learning rate; what is on record in $CPNB_RESULTS is not run again.
"""

import argparse
import copy
import time

import torch

import cpnb

RANKS = {"conv2": 64, "conv3": 64}
BOUNDS = (0.5, 1.0, 3.0, 10.0, 30.0, None)
USUAL = {"max_degeneracy": None, "n_iter_max": 100, "init": "svd", "lr": 0.01, "balanced": True}
# What differs from the usual plain NLS.
PLAIN = [
    {},
    *({"lr": lr} for lr in (0.001, 0.003)),
    *({"n_iter_max": steps} for steps in (5, 10, 20, 50, 200)),
    *({"init": "random", "n_iter_max": steps} for steps in (20, 50, 100, 200)),
    {"balanced": False},
    {"init": "random", "n_iter_max": 20, "lr": 0.003},
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("bounds", "plain"))
    parser.add_argument("--lrs", type=float, nargs="+", default=[0.003, 0.01, 0.05])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    settings = PLAIN
    if options.what == "bounds":
        settings = [{"max_degeneracy": bound, "lr": lr} for bound in BOUNDS for lr in options.lrs]
    test, net = cpnb.load_dataset("chars74k", "test"), cpnb.load_charnet()
    dense = cpnb.accuracy(net, test)
    solved = {}  # by what conv2's fit hangs on: learning rates share it
    for seed in options.seeds:
        samples = cpnb.training_samples("chars74k", rendered=500, seed=seed)
        for setting in settings:
            key = USUAL | setting | {"seed": seed}
            if not cpnb.recorded(cpnb.results_path(), claim="cp-start", **key):
                row = key | survived(net, samples, test, key, solved)
                row |= {"accuracy_baseline": dense, "test_size": len(test), "dataset": "chars74k"}
                print(row, flush=True)
                cpnb.record("cp-start", **row, method="nls", ranks=list(RANKS.values()))


def survived(net, samples, test, key: dict, solved: dict) -> dict:
    """What the pipeline makes of a start."""
    start, found = time.perf_counter(), {"rel_error": [], "degeneracy": [], "accuracy": []}
    small = net
    for name in RANKS:
        small = fitted(small, name, key, solved if small is net else {})
        layer = small.get_submodule(name)
        found["rel_error"].append(layer.rel_error)
        found["degeneracy"].append(layer.degeneracy)
        found["accuracy"].append(cpnb.accuracy(small, test))
        try:
            cpnb.finetune(small, samples, 1, lr=key["lr"], seed=key["seed"], progress=False)
        except cpnb.TrainingError as error:
            found["diverged"] = f"{name}: {error}"
            break
        found["accuracy"].append(cpnb.accuracy(small, test))
    lost = "diverged" in found  # then it knows nothing: chance is one class of 36
    found["accuracy_finetuned"] = 1 / 36 if lost else found["accuracy"][-1]
    return found | {"seconds": time.perf_counter() - start}


def fitted(net, name, key: dict, solved: dict):
    """The net with the layer replaced; of conv2 the same fit for every learning rate."""
    about = tuple(v for k, v in key.items() if k != "lr")
    if about not in solved:
        options = {k: key[k] for k in ("max_degeneracy", "n_iter_max", "init")}
        small = cpnb.decompose(net, {name: RANKS[name]}, random_state=key["seed"], **options)
        if not key["balanced"]:
            unbalance(small.get_submodule(name))
        solved[about] = small
    return copy.deepcopy(solved[about])


@torch.no_grad()
def unbalance(layer):
    """Leave each term's norm to its last factor, the others of norm 1, as ALS codes do."""
    parts = [layer.reduce, layer.vertical, layer.horizontal]
    for part in parts:
        norms = part.weight.flatten(1).norm(dim=1)
        part.weight.div_(norms[:, None, None, None])
        layer.expand.weight.mul_(norms[None, :, None, None])


if __name__ == "__main__":
    main()
