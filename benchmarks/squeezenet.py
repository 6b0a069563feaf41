"""SqueezeNet on ImageNet images: its 3×3 expand layers at 2× fewer multiplies, not fine-tuned.

    CPNB_DATA=... python benchmarks/squeezenet.py            # about 8 minutes on 2 CPU cores

Kernels are fitted plainly; in the metric of their input maps' covariance ("channels"); and to the
covariance of their whole patches (`cpnb.fit_to_patches`, "patches"). Steps are as many as it takes
until the fit hardly gains: from 120 to 240 of them its error falls by 1 to 2%. The images are split
in two halves by turns: what is fitted to one half is evaluated on the other, so each image is
evaluated once, by layers that have not seen it (nor its class: each image has its own). One record
a method.
"""

import argparse
import copy
import time

import torch
from torch.utils.data import TensorDataset

import cpnb
from cpnb.nets.squeezenet import expand_layers, load_squeezenet, rank_for

METHODS = ("dense", "greedy", "nls", "jaderberg", "nls + channels", "nls + patches")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--factor", type=float, default=2.0)
    parser.add_argument("--n-iter-max", type=int, default=100, help="steps of the solver")
    parser.add_argument("--patch-steps", type=int, default=240, help="steps of fit_to_patches")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options = parser.parse_args()
    net, files = load_squeezenet(), cpnb.load_dataset("imagenet-sample", "test")
    images, labels = zip(*files, strict=True)
    images, labels = torch.stack(images), torch.tensor(labels)
    example, names = images[:1], expand_layers(net)
    dense = cpnb.topk_accuracy(net, TensorDataset(images, labels))
    for method in options.methods:
        start = time.perf_counter()
        channels = method.endswith("channels")
        small = None if channels else decomposed(net, names, method, options)
        fitted, found = [], {1: 0.0, 5: 0.0}
        for fold in (0, 1):
            seen = torch.arange(len(labels)) % 2 == fold
            data = TensorDataset(images[seen], labels[seen])
            if channels:
                weight = {name: cpnb.input_covariance(net, name, data) for name in names}
                small = decomposed(net, names, method, options, weight=weight)
            model = copy.deepcopy(small)
            if method.endswith("patches"):
                for name in names:
                    (report,) = cpnb.fit_to_patches(model, net, name, data, options.patch_steps)
                    fitted.append({"layer": name, "fold": fold} | report)
            other = TensorDataset(images[~seen], labels[~seen])
            share = len(other) / len(labels)
            found = {k: found[k] + share * v for k, v in cpnb.topk_accuracy(model, other).items()}
        row = {
            "method": method,
            "factor": options.factor,
            "ranks": ranks_of(net, names, method, options.factor),
            "top1": found[1],
            "top5": found[5],
            "top1_dense": dense[1],
            "top5_dense": dense[5],
            "test_size": len(labels),
            "multiplies": cpnb.count_multiplies(small, example),
            "multiplies_dense": cpnb.count_multiplies(net, example),
            "rel_error": [getattr(small.get_submodule(n), "rel_error", 0.0) for n in names],
            "fitted": fitted,
            "seconds": time.perf_counter() - start,
        }
        print({key: value for key, value in row.items() if key != "fitted"}, flush=True)
        cpnb.record("squeezenet", **row, dataset="imagenet-sample", parameters=vars(options))


def ranks_of(net, names, method, factor) -> dict:
    scheme = "jaderberg" if method == "jaderberg" else "cp"
    return {name: rank_for(net.get_submodule(name), factor, scheme) for name in names}


def decomposed(net, names, method, options, **metric):
    if method == "dense":
        return net
    solver = method.split(" ")[0]
    settings = {} if solver == "jaderberg" else {"n_iter_max": options.n_iter_max}
    ranks = ranks_of(net, names, method, options.factor)
    return cpnb.decompose(net, ranks, solver, **settings, **metric)


if __name__ == "__main__":
    main()
