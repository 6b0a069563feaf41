"""The rivals' layers against nn.Conv2d with the rebuilt kernel, and against what is best."""

import copy

import numpy as np
import pytest
import tensorly
import torch
from convolutions import CASES, assert_equals_rebuilt, conv
from torch import nn

import cpnb
from cpnb.layers.denton import BiclusteredConv2d, MonochromaticConv2d
from cpnb.layers.jaderberg import SeparableBasis, VerticalHorizontal
from cpnb.layers.methods import METHODS
from cpnb.layers.surgery import convolution_names
from cpnb.layers.svd import SVDLinear
from cpnb.layers.tucker import TuckerConv2d, hooi

pytestmark = pytest.mark.filterwarnings("ignore:layer '0' at rank")


def factored(dense, rank, method, **options):
    net = nn.Sequential(dense)
    return cpnb.decompose(net, {"0": rank}, method=method, **options)[0]


WAYS = {
    "scheme 2": (3, "jaderberg", {}),
    "scheme 1": (2, "jaderberg", {"scheme": 1, "n_iter_max": 5}),
    "greedy blocks": (2, "biclustering", {"clusters": (2, 3)}),
    "one cluster": (2, "biclustering", {"clusters": (1, 1)}),
    "SVD blocks": ((1, 2), "biclustering", {"clusters": (2, 1), "blocks": "svd"}),
    "tucker": ((2, 3), "tucker", {}),
    "tucker, energy": (0.8, "tucker", {}),
}
COLOUR_CASES = {
    "plain": conv(3, 6, 3),
    "stride, padding": conv(3, 6, (5, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    "same, reflect": conv(3, 6, 4, padding="same", padding_mode="reflect", bias=False),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("way", WAYS)
def test_equals_the_convolution_with_the_rebuilt_kernel(name, way):
    rank, method, options = WAYS[way]
    dense = CASES[name]
    assert_equals_rebuilt(factored(dense, rank, method, **options), dense)


@pytest.mark.parametrize("name", COLOUR_CASES)
def test_a_colour_layer_equals_the_convolution_with_the_rebuilt_kernel(name):
    dense = COLOUR_CASES[name]
    assert_equals_rebuilt(factored(dense, 3, "monochromatic"), dense)


EXACT = {
    "scheme 2": (12, "jaderberg", {}),
    "scheme 1": (9, "jaderberg", {"scheme": 1, "n_iter_max": 2000}),
    "SVD blocks": ((2, 3), "biclustering", {"clusters": (2, 2), "blocks": "svd"}),
    "tucker": ((4, 6), "tucker", {}),
    "tucker, energy": (1 - 1e-9, "tucker", {}),
}


@pytest.mark.parametrize("way", EXACT)
@pytest.mark.filterwarnings("ignore:rank=9 is more than")
def test_full_rank_gives_the_dense_layer_back(way):
    rank, method, options = EXACT[way]
    dense = CASES["plain"]
    layer = factored(dense, rank, method, **options)
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-3, atol=1e-3)


def test_a_colour_for_each_filter_leaves_its_rank_one_error():
    dense = COLOUR_CASES["plain"]
    layer = factored(dense, 6, "monochromatic")
    values = torch.linalg.svdvals(dense.weight.detach().flatten(2))
    best = float(values[:, 1:].square().sum() / values.square().sum()) ** 0.5
    assert layer.rel_error == pytest.approx(best, rel=1e-9)


def test_scheme_2_is_the_best_matrix_of_rank_k():
    dense = CASES["rectangular"]
    matrix = dense.weight.detach().permute(1, 2, 0, 3).flatten(2).flatten(0, 1)
    values = torch.linalg.svdvals(matrix)
    for rank in (1, 4, 9):
        best = float(values[rank:].norm() / values.norm())
        assert factored(dense, rank, "jaderberg").rel_error == pytest.approx(best, rel=1e-9)


def test_planted_structure_is_found():
    torch.manual_seed(0)
    colours, grey = torch.randn(2, 3), torch.randn(6, 3, 3)
    of = torch.tensor([0, 1, 1, 0, 1, 0])
    dense = conv(3, 6, 3)
    dense.weight.data = torch.einsum("tc,tij->tcij", colours[of], grey).double()
    assert factored(dense, 2, "monochromatic").rel_error < 1e-6
    # two kinds of outputs that read two kinds of inputs, each block of one term
    dense = conv(6, 4, 3)
    into, out = torch.tensor([0, 1, 0, 1, 1, 0]), torch.tensor([0, 1, 1, 0])
    a, b = torch.randn(2, 6), torch.randn(2, 4)
    blocks = torch.randn(2, 2, 3, 3)
    mask = torch.eye(2)[out][:, into]  # far apart: a kind of outputs reads its own inputs most
    kernel = (
        torch.einsum("s,t,tsij->tsij", a[0], b[0], blocks[out][:, into])
        * (mask + 0.01)[..., None, None]
    )
    dense.weight.data = kernel.double()
    layer = factored(dense, 1, "biclustering", clusters=(2, 2))
    assert layer.rel_error < 1e-5


def test_more_terms_fit_better():
    dense = conv(8, 12, 5)
    for method, options, ranks in (
        ("jaderberg", {}, (1, 4, 16)),
        ("jaderberg", {"scheme": 1}, (1, 2, 4)),
        ("biclustering", {"clusters": (2, 2)}, (1, 4, 16)),
        ("tucker", {}, ((1, 1), (4, 4), (6, 8))),
        ("tucker", {}, (0.2, 0.5, 0.9)),
    ):
        errors = [factored(dense, rank, method, **options).rel_error for rank in ranks]
        assert errors == sorted(errors, reverse=True) and errors[0] > errors[-1]


def test_clusters_beat_the_order_that_is_there_by_chance():
    dense = conv(3, 24, 3)
    found = factored(dense, 4, "monochromatic").rel_error
    grams = dense.weight.detach().flatten(2).unflatten(0, (4, 6))  # neighbours as clusters
    kept = [torch.linalg.svdvals(g.transpose(0, 1).flatten(1))[0] ** 2 for g in grams]
    naive = float(1 - sum(kept) / dense.weight.detach().square().sum()) ** 0.5
    assert found < naive


MULTIPLIES = [
    # maps of 12×10 become 8×6 by a 5×5 kernel; S=8, T=16
    (4, "jaderberg", {}, 5 * 4 * (8 * 8 * 10 + 16 * 8 * 6)),
    (2, "jaderberg", {"scheme": 1}, 2 * 8 * (5 * 8 * 10 + 5 * 8 * 6 + 16 * 8 * 6)),
    (3, "biclustering", {"clusters": (4, 2)}, 8 * 3 * (2 * 120 + 25 * 48 + 8 * 48)),
    (
        (2, 3),
        "biclustering",
        {"clusters": (4, 2), "blocks": "svd"},
        8 * (2 * 2 * 120 + 25 * 6 * 48 + 3 * 8 * 48),
    ),
    ((3, 5), "tucker", {}, 3 * 8 * 120 + (25 * 15 + 5 * 16) * 48),
]


@pytest.mark.parametrize("rank,method,options,expected", MULTIPLIES)
def test_multiplies_are_those_of_the_formula(rank, method, options, expected):
    layer = factored(conv(8, 16, 5, dtype=torch.float32), rank, method, **options)
    assert cpnb.count_multiplies(layer, torch.randn(1, 8, 12, 10)) == expected


def test_multiplies_of_the_others():
    colour = factored(conv(3, 16, 5, dtype=torch.float32), 4, "monochromatic")
    expected = 3 * 4 * 120 + 25 * 16 * 48
    assert cpnb.count_multiplies(colour, torch.randn(1, 3, 12, 10)) == expected
    linear = factored(nn.Linear(20, 30), 4, "svd")
    assert cpnb.count_multiplies(linear, torch.randn(1, 20)) == 4 * 50


def test_svd_of_a_linear_layer():
    dense = nn.Linear(7, 5, dtype=torch.float64)
    values = torch.linalg.svdvals(dense.weight.detach())
    layer = factored(dense, 3, "svd")
    assert isinstance(layer, SVDLinear)
    assert layer.rel_error == pytest.approx(float(values[3:].norm() / values.norm()), rel=1e-9)
    x = torch.randn(4, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer.to_linear()(x))
    assert torch.equal(layer.to_linear().bias, dense.bias)
    no_bias = factored(nn.Linear(7, 5, bias=False), 5, "svd")
    assert no_bias.last.bias is None and no_bias.rel_error < 1e-6


def test_tucker_is_no_worse_than_two_projections():
    dense = conv(8, 12, 3)
    kernel = dense.weight.detach()
    u = torch.linalg.svd(kernel.flatten(1))[0][:, :6]
    v = torch.linalg.svd(kernel.transpose(0, 1).flatten(1))[0][:, :4]
    projected = torch.einsum("tq,uq,sp,rp,urij->tsij", u, u, v, v, kernel)
    hosvd = float((kernel - projected).norm() / kernel.norm())
    assert factored(dense, (4, 6), "tucker").rel_error <= hosvd * (1 + 1e-9)


def test_vbmf_finds_the_planted_ranks():
    torch.manual_seed(0)
    dense = conv(24, 32, 3)
    core, u, v = torch.randn(5, 3, 3, 3), torch.randn(32, 5), torch.randn(24, 3)
    signal = torch.einsum("tq,sp,qpij->tsij", u, v, core)
    dense.weight.data = (signal + 0.3 * torch.randn_like(signal)).double()
    assert factored(dense, "vbmf", "tucker").ranks == (3, 5)
    dense.weight.data = torch.randn_like(dense.weight)  # nothing but noise: the least layer
    assert factored(dense, "vbmf", "tucker").ranks == (1, 1)


def spread_covariance(size):
    torch.manual_seed(1)
    root = torch.randn(size, size, dtype=torch.float64) * torch.logspace(0, -2, size)
    return root @ root.T


WEIGHTED = [
    (5, "jaderberg", {}),
    ((3, 4), "tucker", {}),
]


@pytest.mark.parametrize("rank,method,options", WEIGHTED)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_covariance_lowers_its_own_error(rank, method, options, groups):
    dense = conv(16, 24, 3, groups=groups)
    sigma = spread_covariance(16 // groups)

    def weighted(layer):
        rest = (dense.weight - layer.to_conv().weight).detach()
        return float(torch.einsum("tsij,su,tuij->", rest, sigma, rest)) ** 0.5

    plain = factored(dense, rank, method, **options)
    aware = factored(dense, rank, method, weight=sigma, **options)
    assert weighted(aware) < 0.95 * weighted(plain)
    assert aware.rel_error > plain.rel_error  # nothing is free


@pytest.mark.parametrize(
    "rank,method,options",
    [*WEIGHTED, (1, "jaderberg", {"scheme": 1}), (2, "biclustering", {}), (4, "svd", {})],
)
def test_weights_of_single_maps(rank, method, options):
    torch.manual_seed(0)
    dense = nn.Linear(8, 12).double() if method == "svd" else conv(8, 12, 3)
    a, b = torch.logspace(0, -3, 8), torch.logspace(-1.5, 0, 12)

    def weighted(layer):
        rebuilt = layer.to_linear() if method == "svd" else layer.to_conv()
        rest = (dense.weight - rebuilt.weight).detach()
        return float(torch.einsum("ts...,s,t->", rest**2, a.double(), b.double() ** 2))

    plain = factored(dense, rank, method, **options)
    aware = factored(dense, rank, method, weight=a.diag(), output_weight=b, **options)
    assert weighted(aware) < weighted(plain)


def test_the_metric_of_equal_weights_changes_nothing():
    dense = conv(8, 12, 3)
    plain = factored(dense, 4, "jaderberg")
    same = factored(dense, 4, "jaderberg", weight=3 * torch.eye(8), output_weight=torch.ones(12))
    torch.testing.assert_close(plain.to_conv().weight, same.to_conv().weight)


@pytest.mark.parametrize(
    "rank,method,options",
    [(w[0], w[1], w[2]) for w in WAYS.values()] + [(2, "als", {})],
)
def test_dtype_mode_and_frozen_weights_are_kept(rank, method, options):
    dense = conv(4, 6, 3, dtype=torch.bfloat16).eval()
    dense.weight.requires_grad_(False)
    before = copy.deepcopy(dense.state_dict())
    layer = factored(dense, rank, method, **options)
    assert all(p.dtype == torch.bfloat16 for p in layer.parameters())
    assert [n for n, p in layer.named_parameters() if p.requires_grad] in (
        ["last.bias"],
        ["expand.bias"],
    )
    assert not any(part.training for part in layer.modules())
    assert all(torch.equal(v, before[k]) for k, v in dense.state_dict().items())


def test_layers_survive_copies_state_dicts_and_export():
    x = torch.randn(2, 4, 8, 8)
    for rank, method, options in WAYS.values():
        dense = conv(4, 6, 3, padding=1, dtype=torch.float32)
        layer = factored(dense, rank, method, **options).eval()
        fresh = factored(copy.deepcopy(dense), rank, method, **options)
        fresh.first.weight.data.zero_()
        fresh.load_state_dict(layer.state_dict())
        torch.testing.assert_close(copy.deepcopy(fresh)(x), layer(x))
        torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


def test_decomposed_layers_are_seen_as_such():
    net = nn.Sequential(conv(3, 6, 3), nn.ReLU(), conv(6, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    small = cpnb.decompose(net, {"0": 2}, method="monochromatic")
    small = cpnb.decompose(small, {"2": 2}, method="jaderberg")
    small = cpnb.decompose(small, {"4": 1}, method="svd")
    assert convolution_names(small) == []
    with pytest.raises(TypeError, match="layer '0' is already a MonochromaticConv2d; use its to_c"):
        cpnb.decompose(small, {"0": 2})
    with pytest.raises(TypeError, match="already a SVDLinear; use its to_linear"):
        cpnb.decompose(small, {"4": 2}, method="svd")
    assert "rank=2, rel_error=0." in repr(small[2])


TYPES = {
    "jaderberg": VerticalHorizontal,
    "biclustering": BiclusteredConv2d,
    "monochromatic": MonochromaticConv2d,
    "tucker": TuckerConv2d,
}
BAD = [
    ((5, 6, 3), {"clusters": (2, 2)}, 1, "biclustering", ValueError,
     "needs clusters of one size: 2 clusters do not divide the 5 input maps"),
    ((4, 6, 3), {"clusters": (2, 4)}, 1, "biclustering", ValueError, "divide the 6 output maps"),
    ((4, 6, 3), {"clusters": 2}, 1, "biclustering", TypeError, r"clusters must be \(G, H\)"),
    ((4, 6, 3), {"clusters": (9, 1)}, 1, "biclustering", ValueError, "integer from 1 to 4"),
    ((4, 6, 3), {"blocks": "cp"}, 1, "biclustering", ValueError, "blocks must be one of greedy, s"),
    ((4, 6, 3), {"blocks": "svd"}, (3, 1), "biclustering", ValueError, "rank K₁ must be"),
    ((4, 6, 3), {}, 7, "biclustering", ValueError, "rank must be an integer from 1 to 6"),
    ((4, 6, 3), {"weight": torch.ones(4, 4)}, 1, "biclustering", ValueError, "must be diagonal"),
    ((4, 6, 3), {}, 2, "monochromatic", ValueError, "sees 3 colours, got a convolution of 4"),
    ((3, 6, 3), {}, 4, "monochromatic", ValueError, "must divide the 6 output maps"),
    ((4, 6, 3), {}, 13, "jaderberg", ValueError, "from 1 to 12"),
    ((4, 6, 3), {}, 1.5, "jaderberg", TypeError, "rank must be an integer"),
    ((4, 6, 3), {"scheme": 3}, 1, "jaderberg", ValueError, "scheme of method 'jaderberg' must be"),
    ((4, 6, 3), {"clusters": 3}, 1, "jaderberg", TypeError, "accepted: weight, output_weight"),
    ((4, 6, 3), {"scheme": 1, "weight": torch.ones(4, 4)}, 1, "jaderberg", ValueError,
     "must be diagonal for scheme 1"),
    ((4, 6, 3), {"weight": torch.eye(5)}, 1, "jaderberg", ValueError, r"shape \(4, 4\), a row"),
    ((4, 6, 3), {"weight": -torch.eye(4)}, 1, "jaderberg", ValueError, "positive semi-definite"),
    ((4, 6, 3), {"weight": torch.tensor([1.0, 1, -1, 1]).diag()}, 1, "jaderberg", ValueError,
     "eigenvalues from -1 to 1"),
    ((4, 6, 3), {"weight": torch.rand(4, 4).triu()}, 1, "jaderberg", ValueError, "symmetric"),
    ((4, 6, 3), {"output_weight": torch.ones(4)}, 1, "jaderberg", ValueError, "6 positive numbers"),
    ((4, 6, 3), {}, 3, "tucker", TypeError, r"must be \(R_S, R_T\), a share of energy"),
    ((4, 6, 3), {}, (5, 5), "tucker", ValueError, "rank R_S must be an integer from 1 to 4"),
    ((4, 6, 3), {"speed": 1}, (2, 2), "tucker", TypeError, "unknown option speed for method 'tuc"),
    ((4, 6, 3), {}, 2, "svd", TypeError, "layer '0' must be an nn.Linear for method 'svd', got Co"),
]  # fmt: skip


@pytest.mark.parametrize("shape,options,rank,method,error,message", BAD)
def test_bad_input_names_the_rule(shape, options, rank, method, error, message):
    with pytest.raises(error, match=message):
        factored(conv(*shape), rank, method, **options)


def test_bad_calls():
    with pytest.raises(ValueError, match="method must be one of nls, als, greedy, jaderberg"):
        factored(conv(4, 6, 3), 2, "pruning")
    for method, layer in TYPES.items():
        assert method in METHODS
        with pytest.raises(TypeError, match="conv must be an nn.Conv2d, got Linear"):
            layer.from_conv(nn.Linear(3, 4), 1)
    with pytest.raises(TypeError, match="layer '0' must be an nn.Conv2d, got Linear"):
        factored(nn.Linear(3, 4), 2, "jaderberg")
    with pytest.raises(ValueError, match="rank must be an integer from 1 to 3"):
        factored(nn.Linear(3, 4), 5, "svd")
    dense = conv(4, 6, 3)
    nn.init.zeros_(dense.weight)
    for rank, method, options in WAYS.values():
        with pytest.raises(ValueError, match="layer '0': weights must have a non-zero entry"):
            factored(dense, rank, method, **options)
    assert SeparableBasis.__doc__


def test_a_dead_input_map_is_no_obstacle():
    dense = conv(4, 6, 3)
    with torch.no_grad():
        dense.weight[:, 1] = 0
    for rank, method, options in WAYS.values():
        layer = factored(dense, rank, method, **options)
        assert all(p.isfinite().all() for p in layer.parameters())


DEAD = [
    (3, "nls", {}),
    (3, "nls", {"n_starts": 2}),
    (3, "nls", {"weight": torch.eye(8) + 1}),
    (3, "als", {}),
    (3, "greedy", {}),
    (2, "jaderberg", {}),
    (2, "jaderberg", {"scheme": 1}),
    (1, "biclustering", {"clusters": (2, 1)}),
    ((1, 1), "biclustering", {"clusters": (1, 2), "blocks": "svd"}),
    ((1, 2), "tucker", {}),
    (0.9, "tucker", {}),
    ("vbmf", "tucker", {}),
]


@pytest.mark.parametrize("rank,method,options", DEAD)
@pytest.mark.parametrize("first", [0, 2])
def test_a_dead_group_stays_dead_and_the_others_are_factored(rank, method, options, first):
    dense = conv(8, 8, 3, groups=4)
    alone = conv(6, 6, 3, groups=3)
    with torch.no_grad():
        dense.weight[first : first + 2] = 0
        live = [n for n in range(8) if n not in (first, first + 1)]
        alone.weight.copy_(dense.weight[live])
    layer = factored(dense, rank, method, **options)
    rebuilt = layer.to_conv().weight
    assert all(p.isfinite().all() for p in layer.parameters())
    assert not rebuilt[first : first + 2].any() and 0 < layer.rel_error < 1
    if "weight" in options:
        options = options | {"weight": torch.eye(6) + 1}
    same = factored(alone, rank, method, **options)
    torch.testing.assert_close(rebuilt[live], same.to_conv().weight)
    assert layer.rel_error == pytest.approx(same.rel_error)
    if method in ("nls", "als", "greedy"):
        assert layer.degeneracy == pytest.approx(same.degeneracy) and layer.rank == rank


def test_a_depthwise_layer_with_dead_filters():
    dense = conv(6, 6, 3, groups=6)
    with torch.no_grad():
        dense.weight[[0, 4]] = 0
    for method in ("nls", "als", "greedy", "jaderberg", "tucker"):
        layer = factored(dense, (1, 1) if method == "tucker" else 3, method)
        assert not layer.to_conv().weight[[0, 4]].any() and layer.rel_error < 1e-3


INTEGERS = [
    (np.int64(2), "nls", {"n_starts": np.int64(2), "random_state": np.int64(1)}),
    (np.int32(2), "als", {"n_iter_max": np.int64(3)}),
    (np.int64(2), "greedy", {}),
    (np.int64(2), "jaderberg", {}),
    (np.uint8(2), "jaderberg", {"scheme": np.int64(1), "random_state": np.int64(1)}),
    (np.int64(2), "biclustering", {"clusters": np.array([2, 3])}),
    (np.int64(2), "biclustering", {"random_state": np.int64(1), "n_starts": np.int64(2)}),
    (np.int64(2), "biclustering", {"blocks": "svd"}),
    (np.array([1, 2]), "biclustering", {"blocks": "svd", "clusters": (np.int64(2), np.int64(2))}),
    (np.array([2, 3]), "tucker", {"n_iter_max": np.int64(5)}),
    ([np.int64(2), 3], "tucker", {}),
    (np.float32(0.75), "tucker", {}),
    (torch.tensor(2), "als", {}),
]


@pytest.mark.parametrize("rank,method,options", INTEGERS)
def test_numbers_of_numpy_are_as_good_as_pythons(rank, method, options):
    def own(value):
        return value.tolist() if hasattr(value, "tolist") else value

    dense = conv(4, 6, 3)
    layer = factored(dense, rank, method, **options)
    same = factored(dense, own(rank), method, **{key: own(v) for key, v in options.items()})
    assert all(map(torch.equal, layer.parameters(), same.parameters()))
    assert layer.rank == same.rank and repr(layer) == repr(same) and "np." not in repr(layer)


def test_numbers_of_numpy_for_the_others():
    layer = factored(nn.Linear(6, 5), np.int64(3), "svd")
    assert type(layer.rank) is int
    assert type(factored(conv(3, 6, 3), np.int64(3), "monochromatic").rank) is int
    for wrong in (True, np.bool_(True), np.float64(2.0), "2", None):
        with pytest.raises(TypeError, match="rank must be an integer from 1 to 12"):
            factored(conv(4, 6, 3), wrong, "jaderberg")
    with pytest.raises(TypeError, match="rank must be K or .K₁, K₂. for blocks='svd', got 'two'"):
        factored(conv(4, 6, 3), "two", "biclustering", blocks="svd")


@pytest.mark.parametrize("shape,ranks", [((8, 6, 3, 3), (2, 5)), ((12, 2, 1, 1), (1, 5))])
def test_hooi_is_that_of_tensorly(shape, ranks):
    kernel = torch.randn(shape, dtype=torch.float64)
    with tensorly.backend_context("numpy"):
        (core, (u, v)), _ = tensorly.decomposition.partial_tucker(
            kernel.numpy(), rank=[ranks[1], ranks[0]], modes=[0, 1], n_iter_max=50, tol=1e-9
        )
    expected = torch.einsum("qpij,tq,sp->tsij", *map(torch.as_tensor, (core, u, v)))
    core, u, v = hooi(kernel, *ranks, n_iter_max=50, tol=1e-9)
    torch.testing.assert_close(torch.einsum("qpij,tq,sp->tsij", core, u, v), expected)
    torch.testing.assert_close(u.T @ u, torch.eye(ranks[1], dtype=torch.float64))


def test_the_backend_of_tensorly_is_neither_used_nor_changed():
    dense = conv(4, 6, 3)
    expected = factored(dense, (2, 3), "tucker").to_conv().weight
    tensorly.set_backend("pytorch")
    try:
        layer = factored(dense, (2, 3), "tucker")
        assert tensorly.get_backend() == "pytorch"
    finally:
        tensorly.set_backend("numpy")
    assert torch.equal(layer.to_conv().weight, expected)
