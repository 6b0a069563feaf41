"""Forms of one layer: each is exact on a kernel of its own form, and near to none on noise."""

import math
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import forms  # noqa: E402

T, S, D = 8, 6, 3


def draw(*shape):
    return torch.randn(
        shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape))
    )


@pytest.fixture
def sigma():
    root = draw(S * D * D, S * D * D + 9)
    return root @ root.T / root.shape[1]


KERNELS = {
    "CP": torch.einsum("tr,sr,ir,jr->tsij", draw(T, 2), draw(S, 2), draw(D, 2), draw(D, 2)),
    "Jaderberg, scheme 2": torch.einsum("tkj,ksi->tsij", draw(T, 2, D), draw(2, S, D)),
    "Tucker-2": torch.einsum("tb,baij,as->tsij", draw(T, 2), draw(2, 3, D, D), draw(3, S)),
}


@pytest.mark.parametrize("form", KERNELS)
def test_a_form_is_exact_on_its_own_kernels(form, sigma):
    """Up to the damping, 1e-4 of the terms' squares."""
    kernel = KERNELS[form]
    fit = partial(forms.fitted, kernel.flatten(1), sigma)
    found = {
        "CP": lambda: forms.errors_of(kernel, sigma, T * S * D * D / (3 * (T + S + 2 * D)))["CP"],
        "Jaderberg, scheme 2": lambda: min(forms.jaderberg(kernel, fit, 2)),
        "Tucker-2": lambda: min(forms.tucker(kernel, fit, 3 * S + 9 * 3 * 2 + 2 * T)),
    }[form]()
    assert found < 0.05


def test_errors_fall_with_the_multiplies_and_stay_below_one(sigma):
    kernel = draw(T, S, D, D)
    mild, strong = (forms.errors_of(kernel, sigma, rate) for rate in (1.5, 4.0))
    assert set(mild) == {
        "CP", "CP, three-way", "CP after Tucker-2", "Jaderberg, scheme 2", "Tucker-2",
    }  # fmt: skip
    assert all(0 < mild[form] < strong[form] <= 1 for form in mild)


def test_a_full_basis_leaves_nothing_but_the_damping(sigma):
    kernel = draw(T, S, D, D).flatten(1)
    found = forms.fitted(kernel, sigma, [torch.eye(S * D * D, dtype=torch.float64)], lambda p: p[0])
    assert found < math.sqrt(forms.DAMPING) * 10
