"""Data-aware norms: the weighted solution against its definition."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import cpnb
from cpnb.cp.metric import metric_roots

G = torch.Generator().manual_seed(0)
TENSOR = torch.randn(6, 4, 3, 3, generator=G, dtype=torch.float64)
MIX = torch.randn(4, 4, generator=G, dtype=torch.float64)
SIGMA = MIX @ MIX.T


def weighted_error(tensor, rebuilt, root):
    scaled = [torch.einsum("tsij,su->tuij", t, root) for t in (tensor - rebuilt, tensor)]
    return float(scaled[0].norm() / scaled[1].norm())


def test_error_and_bound_are_in_the_norm_of_the_weight():
    cp = cpnb.cp_nls(TENSOR, 4, weight=SIGMA, max_degeneracy=2.0, n_iter_max=60)
    root = metric_roots(SIGMA, TENSOR)[1][0]
    assert cp.rel_error == pytest.approx(weighted_error(TENSOR, cp.to_tensor(), root), rel=1e-8)
    columns = [u.square().sum(0) for u in cp.factors]
    columns[1] = (root @ cp.factors[1]).square().sum(0)
    size = torch.einsum("tsij,su->tuij", TENSOR, root).square().sum()
    assert cp.degeneracy == pytest.approx(float(math.prod(columns).sum() / size), rel=1e-6)
    assert cp.degeneracy <= 2.0


def test_the_weighted_fit_is_better_in_its_norm_and_worse_in_the_plain_one():
    root = metric_roots(SIGMA, TENSOR)[1][0]
    plain = cpnb.cp_nls(TENSOR, 4, n_starts=6)
    weighted = cpnb.cp_nls(TENSOR, 4, n_starts=6, weight=SIGMA)
    errors = [weighted_error(TENSOR, cp.to_tensor(), root) for cp in (plain, weighted)]
    assert errors[1] < errors[0]
    assert float((TENSOR - weighted.to_tensor()).norm() / TENSOR.norm()) > plain.rel_error


def test_the_scale_of_a_weight_and_an_identity_change_nothing():
    one = cpnb.cp_nls(TENSOR, 3, weight=SIGMA, n_iter_max=20)
    other = cpnb.cp_nls(TENSOR, 3, weight=2.0**20 * SIGMA, n_iter_max=20)
    torch.testing.assert_close(other.to_tensor(), one.to_tensor(), rtol=1e-6, atol=1e-8)
    plain = cpnb.cp_nls(TENSOR, 3, n_iter_max=20)
    same = cpnb.cp_nls(TENSOR, 3, weight=[None, torch.eye(4), None, None], n_iter_max=20)
    assert same.rel_error == pytest.approx(plain.rel_error, rel=1e-6)


def test_channels_without_signal_stay_finite():
    sigma = torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    cp = cpnb.cp_nls(TENSOR, 3, weight=sigma, n_iter_max=30)
    assert all(torch.isfinite(u).all() for u in cp.factors)


@pytest.mark.parametrize(
    "weight,message",
    [
        (torch.eye(3), r"weight of mode 1 must have shape \(4, 4\), got \(3, 3\)"),
        (torch.eye(4) * math.nan, "finite and symmetric"),
        (torch.triu(torch.ones(4, 4)), "finite and symmetric"),
        (-torch.eye(4), "positive semi-definite"),
        ([None, torch.eye(4)], "weight must have 4 entries, one a mode, got 2"),
    ],
)
def test_bad_weights(weight, message):
    with pytest.raises(ValueError, match=message):
        cpnb.cp_nls(TENSOR, 2, weight=weight)


def test_input_covariance_is_the_second_moment_over_samples_and_positions():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.Flatten(), nn.ReLU())
    images = torch.randn(10, 1, 8, 8)
    data = TensorDataset(images, torch.zeros(10, dtype=torch.int64))
    with torch.no_grad():
        maps = net[1](net[0](images)).double().permute(1, 0, 2, 3).flatten(1)
    got = cpnb.input_covariance(net, "2", data, batch_size=3)
    torch.testing.assert_close(got, maps @ maps.T / maps.shape[1], rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="no layer 'conv9'"):
        cpnb.input_covariance(net, "conv9", data)


def test_decompose_gives_each_layer_and_each_group_its_own_weight():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 6, 3, groups=2))
    big = torch.block_diag(torch.eye(2), torch.tensor([[100.0, 0.0], [0.0, 1.0]]))
    small = cpnb.decompose(net, {"0": 2, "1": 2}, weight={"1": big}, n_iter_max=30)
    plain = cpnb.decompose(net, {"0": 2, "1": 2}, n_iter_max=30)
    assert torch.equal(small[0].to_conv().weight, plain[0].to_conv().weight)
    ours, theirs = (m[1].to_conv().weight.detach() for m in (small, plain))
    torch.testing.assert_close(ours[:3], theirs[:3], rtol=1e-4, atol=1e-5)
    exact = net[1].weight.detach()
    assert (ours - exact)[3:, 0].norm() < (theirs - exact)[3:, 0].norm()
    with pytest.raises(ValueError, match="weight goes with method 'nls'"):
        cpnb.CPConv2d.from_conv(net[0], 2, method="als", weight=torch.eye(4))
