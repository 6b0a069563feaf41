"""Which form should a 3×3 layer take? Errors of five forms at equal multiplies, fitted alike.

    CPNB_DATA=... python benchmarks/forms.py resnet20 --weights resnet20.safetensors
    CPNB_DATA=... python benchmarks/forms.py squeezenet

====================  ==========================================  ==============================
form                  layers                                      multiplies a position
====================  ==========================================  ==============================
CP                    1×1, d×1, 1×d, 1×1 (Lebedev et al., 2015)   R(S + 2d + T)
CP, three-way         1×1, depthwise d×d, 1×1 (Astrid & Lee,      R(S + d² + T)
                      2017; Phan et al., 2020)
CP after Tucker-2     1×1, then CP, then 1×1 (Phan et al., 2020)  S·A + R(A + 2d + B) + B·T
Jaderberg, scheme 2   d×1, 1×d, or the other way round (2014)     K·d(S + T)
Tucker-2              1×1, d×d, 1×1 (Kim et al., 2016)            S·A + d²·A·B + B·T
====================  ==========================================  ==============================

Each form is fitted to the covariance of the layer's input patches, as `cpnb.fit_to_patches` does it
for CP: L-BFGS on all parts but the last, which follows from them (reduced-rank regression where the
last is of low rank). The channel rank A is the best of five shares of S; B is the same share of T
(CP after Tucker-2), or what the budget leaves (Tucker-2). One record a layer and rate, with the
relative error of each form.
"""

import argparse
from functools import partial
from pathlib import Path

import torch

import cpnb
from cpnb.training.moments import patch_moments
from cpnb.training.patches import regression

LAYERS = {
    "resnet20": ("layer1.1.conv2", "layer2.1.conv1", "layer2.2.conv2", "layer3.1.conv1",
                 "layer3.2.conv1"),
    "squeezenet": ("features.4.expand3x3", "features.7.expand3x3", "features.10.expand3x3"),
}  # fmt: skip
RATES, SHARES = (2.0, 3.0, 5.0), (0.2, 0.35, 0.5, 0.65, 0.8)
STEPS, DAMPING = 200, 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("net", choices=list(LAYERS))
    parser.add_argument("--weights", help="of ResNet-20; by default those among the data")
    options = parser.parse_args()
    given = {"weights": Path(options.weights or "").name}  # no path of one machine in a record
    if options.net == "resnet20":
        model = cpnb.load_cifar_resnet(20, options.weights)
        data = cpnb.load_dataset("cifar10", "train", size=512)
    else:
        model, data = cpnb.load_squeezenet(), cpnb.load_dataset("imagenet-sample", "test", size=128)
    for layer in LAYERS[options.net]:
        conv = model.get_submodule(layer)
        (moments,) = patch_moments(model, model, layer, data, positions=256, centred=True)
        target, sigma = regression(conv.weight.detach().double().flatten(1), moments)
        for rate in RATES:
            errors = errors_of(target.view_as(conv.weight), sigma, rate)
            row = {"net": options.net, "layer": layer, "rate": rate, "errors": errors}
            print(row, flush=True)
            cpnb.record("forms", **row, parameters=given)


def errors_of(kernel, sigma, rate: float) -> dict[str, float]:
    """The relative error ‖(W−Ŵ)Σ^½‖/‖WΣ^½‖ of each form at so many times fewer multiplies."""
    t, s, d, _ = kernel.shape
    budget = kernel.numel() / rate
    fit = partial(fitted, kernel.flatten(1), sigma)
    terms = cpnb.cp_nls(kernel, int(budget / (s + t + 2 * d)), n_iter_max=50, random_state=0)
    _, *parts = (factor.T.contiguous() for factor in terms.factors)
    whole = int(budget / (s + t + d * d))
    merged = [parts[0][:whole], torch.einsum("ri,rj->rij", *parts[1:])[:whole]]
    return {
        "CP": fit(parts, cp),
        "CP, three-way": fit(merged, three_way),
        "CP after Tucker-2": min(cp_after_tucker(kernel, fit, budget), default=1.0),
        "Jaderberg, scheme 2": min(jaderberg(kernel, fit, int(budget / (d * (s + t))))),
        "Tucker-2": min(tucker(kernel, fit, budget), default=1.0),
    }


def cp(parts):
    """Rows (R, S d²), the terms without their outputs."""
    return torch.einsum("rs,ri,rj->rsij", *parts).flatten(1)


def three_way(parts):
    return torch.einsum("rs,rij->rsij", *parts).flatten(1)


def cp_after_tucker(kernel, fit, budget: float):
    """Errors at five shares of the channels; the channels' bases start as their leading ones."""
    t, s, d, _ = kernel.shape
    for share in SHARES:
        a, b = int(share * s), int(share * t)
        rank = int((budget - s * a - t * b) / (a + 2 * d + b))
        rank = min(rank, min(a, b) * d * d)  # of any core, at most
        if rank < 1 or min(a, b) < 2:  # no term is left, or no channel to choose
            continue
        left, right = leading(kernel, b), leading(kernel.transpose(0, 1), a)
        core = torch.einsum("tsij,tq,sp->qpij", kernel, left, right)
        solved = cpnb.cp_nls(core, rank, n_iter_max=50, random_state=0)
        _, *inner = (factor.T.contiguous() for factor in solved.factors)

        def basis(parts):
            first, *rest = parts
            return cp([rest[0] @ first, *rest[1:]])

        yield fit([right.T.contiguous(), *inner], basis, most=b)


def jaderberg(kernel, fit, rank: int):
    """Errors with the vertical filters first, and with the horizontal ones first."""
    t, s, d, _ = kernel.shape
    one = torch.eye(d, dtype=kernel.dtype)
    for rule, order in (("ksi,jl->kjsil", (1, 2, 0, 3)), ("ksj,il->kislj", (1, 3, 0, 2))):
        filters = leading(kernel.permute(order).reshape(s * d, t * d), rank).T.reshape(-1, s, d)

        def basis(parts, rule=rule):
            return torch.einsum(rule, parts[0], one).flatten(0, 1).flatten(1)

        yield fit([filters.contiguous()], basis)


def tucker(kernel, fit, budget: float):
    """Errors at five shapes of the core."""
    t, s, d, _ = kernel.shape
    one = torch.eye(d * d, dtype=kernel.dtype)
    for share in SHARES:
        a = int(share * s)
        b = min(t, int((budget - s * a) / (d * d * a + t)))
        if b < 1:
            continue

        def basis(parts):
            return torch.einsum("as,ij->aisj", parts[0], one).flatten(0, 1).flatten(1)

        yield fit([leading(kernel.transpose(0, 1), a).T.contiguous()], basis, most=b)


def leading(kernel, rank: int):
    """Leading left singular vectors of the first mode, (I, rank)."""
    return torch.linalg.svd(kernel.flatten(1), full_matrices=False)[0][:, :rank]


def fitted(target, sigma, parts, basis, most: int | None = None) -> float:
    """The error of the best last layer on the best basis; of rank `most` if that is given.

    The share of the ridge is counted; it is a tenth of `fit_to_patches`'s, as in `compress`.
    """
    product = target @ sigma
    whole = (product * target).sum()
    parts = [part.clone().requires_grad_() for part in parts]
    optimizer = torch.optim.LBFGS(
        parts, max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe",
        tolerance_change=1e-9, tolerance_grad=1e-9,
    )  # fmt: skip

    def left():
        rows = torch.nn.functional.normalize(basis(parts), dim=1)
        gram = rows @ sigma @ rows.T
        ridge = DAMPING * gram.diagonal().mean().detach() * torch.eye(len(gram), dtype=gram.dtype)
        root = torch.linalg.cholesky(gram + ridge)
        found = torch.linalg.solve_triangular(root, rows @ product.T, upper=False)
        squares = found.square().sum()
        if most is not None:
            small = found if len(found) < found.shape[1] else found.T
            squares = torch.linalg.eigvalsh(small @ small.T)[-most:].sum()
        return 1 - squares / whole

    def closure():
        optimizer.zero_grad()
        loss = left()
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(left().detach().clamp_min(0).sqrt())


if __name__ == "__main__":
    main()
