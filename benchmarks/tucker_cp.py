"""Is CP after a Tucker-2 compression of the channels ever cheaper than CP at the same error?

    CPNB_DATA=... python benchmarks/tucker_cp.py --weights resnet20.safetensors

Phan et al. (ECCV 2020) compress the channels first (Tucker-2, ranks R_S and R_T) and decompose the
core by CP: S·R_S + R(R_S + 2d + R_T) + R_T·T multiplies a position in place of R(S + 2d + T). Here,
at equal multiplies, the errors of both in the metric of the input channels' covariance, for layers
of ResNet-20 and SqueezeNet with real weights; of the second the best of three channel ranks. One
record a layer and rate. The plan offers CP alone, because the second was worse wherever tried.
"""

import argparse
from pathlib import Path

import torch

import cpnb

RATES, SHARES = (2.0, 3.0, 5.0), (0.5, 0.65, 0.8)
RESNET = ("layer1.1.conv2", "layer2.1.conv1", "layer2.2.conv2", "layer3.1.conv1", "layer3.2.conv1")
SOLVED = {"n_iter_max": 60, "random_state": 0}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", help="of ResNet-20; by default those among the data")
    options = parser.parse_args()
    given = {"weights": Path(options.weights or "").name}  # no path of one machine in a record
    resnet, squeezenet = cpnb.load_cifar_resnet(20, options.weights), cpnb.load_squeezenet()
    nets = (
        ("resnet20", resnet, RESNET, cpnb.load_dataset("cifar10", "train", size=512)),
        ("squeezenet", squeezenet, cpnb.expand_layers(squeezenet),
         cpnb.load_dataset("imagenet-sample", "test", size=128)),
    )  # fmt: skip
    for net, model, layers, data in nets:
        for layer in layers:
            kernel = whitened(model, layer, data)
            for rate in RATES:
                row = {"net": net, "layer": layer, "rate": rate} | errors(kernel, rate)
                print(row, flush=True)
                cpnb.record("tucker-cp", **row, parameters=given)


def whitened(model, layer, data):
    """The kernel (T, S, d, d) with its input channels in their covariance's metric, of norm 1."""
    values, vectors = torch.linalg.eigh(cpnb.input_covariance(model, layer, data).double())
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    kernel = model.get_submodule(layer).weight.detach().double()
    kernel = torch.einsum("tsij,sp->tpij", kernel, root)
    return kernel / kernel.norm()


def errors(kernel, rate: float) -> dict:
    """Relative errors of CP and of the best CP after Tucker-2 at so many times fewer multiplies."""
    t, s, d, _ = kernel.shape
    budget = kernel.numel() / rate
    rank = int(budget / (s + t + 2 * d))
    tried = [after_tucker(kernel, share, budget) for share in SHARES]
    none = {"share": None, "rank_of_core": 0, "error_tucker_cp": 1.0}  # no term is left
    best = min((one or none for one in tried), key=lambda one: one["error_tucker_cp"])
    return best | {"rank": rank, "error_cp": cpnb.cp_nls(kernel, rank, **SOLVED).rel_error}


def after_tucker(kernel, share: float, budget: float) -> dict | None:
    """Channels cut to a share of theirs by the truncated HOSVD, the core by CP."""
    t, s, d, _ = kernel.shape
    keep_t, keep_s = int(share * t), int(share * s)
    rank = int((budget - s * keep_s - t * keep_t) / (keep_s + keep_t + 2 * d))
    if rank < 1:
        return None
    left, right = (
        torch.linalg.svd(k.flatten(1), full_matrices=False)[0][:, :keep]
        for k, keep in ((kernel, keep_t), (kernel.transpose(0, 1), keep_s))
    )
    core = torch.einsum("tsij,tq,sp->qpij", kernel, left, right)
    lost = 1 - float(core.square().sum())
    fit = cpnb.cp_nls(core, rank, **SOLVED).rel_error * float(core.norm())
    error = (lost + fit**2) ** 0.5
    return {"share": share, "rank_of_core": rank, "error_tucker_cp": error}


if __name__ == "__main__":
    main()
