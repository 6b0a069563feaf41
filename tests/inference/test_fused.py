"""The fused chain, by the C++ kernel and in plain PyTorch, repeats the layers it stands for."""

import copy
import threading

import pytest
import torch
from fusing import LAYERS, assert_same, both, compiled, factored, needs_compiler
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cpnb.inference.fused import kernel
from cpnb.inference.fused.chain import Chain
from cpnb.inference.fused.module import PATHS, FusedConv
from cpnb.nets.charnet import Maxout


@both
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("threads", [1, 5])
def test_repeats_the_layers(path, name, threads):
    layers = LAYERS[name]()
    x = torch.randn(3, Chain(layers).in_channels, 19, 27)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same(path, layers, x)
    finally:
        torch.set_num_threads(before)


def sizes(least, most):
    return st.tuples(st.integers(least, most), st.integers(least, most))


@both
@given(
    sizes(1, 5), sizes(1, 3), sizes(0, 3), sizes(1, 2), sizes(0, 30),
    st.integers(1, 3), st.integers(1, 40), st.integers(0, 9), st.sampled_from([1, 2, 3, 4]),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_any_geometry(
    path, kernel, stride, padding, dilation, more, groups, rank, samples, group, bias, dense
):
    options = {"stride": stride, "padding": padding, "dilation": dilation, "bias": bias}
    covered = path == "portable" or (groups == 1 and dilation[1] == 1)
    arguments = (3 * groups, 12 * groups, kernel)
    if dense and covered:
        front = nn.Conv2d(*arguments, groups=groups, **options)
    else:
        front = factored(rank, *arguments, groups=groups, **options)
    size = [
        max(1, d * (k - 1) + 1 - 2 * p) + m
        for k, p, d, m in zip(kernel, padding, dilation, more, strict=True)
    ]
    assert_same(path, [front, Maxout(group)], torch.randn(samples, 3 * groups, *size))


@both
def test_wide_images_are_cut_into_tiles_that_meet(path):
    assert_same(path, [factored(48, 4, 10, 5, padding=2), Maxout(2)], torch.randn(2, 4, 67, 601))


@both
def test_not_contiguous_and_channels_last(path):
    layers = [factored(8, 6, 12, 3), Maxout(2)]
    x = torch.randn(4, 21, 12, 17).transpose(1, 2)[::2, ::2]
    assert not x.is_contiguous()
    assert_same(path, layers, x)
    assert_same(path, layers, x.contiguous(memory_format=torch.channels_last))
    assert_same(path, layers, torch.randn(1, 6, 1, 1).expand(2, 6, 9, 9))


@both
def test_a_negated_view_is_read_as_negated(path):
    x = torch.randn(2, 4, 9, 9).contiguous(memory_format=torch.channels_last)
    assert_same(path, [factored(6, 4, 8, 3)], torch._neg_view(x))


@both
def test_one_module_many_shapes(path, monkeypatch):
    monkeypatch.setattr(kernel, "MOST_PLANS", 2)  # fewer than there are: some are made anew
    layers = [factored(8, 6, 12, 3), Maxout(2)]
    module, plain = FusedConv(copy.deepcopy(layers), path), nn.Sequential(*layers)
    shapes = [(1, 6, 9, 9), (7, 6, 40, 3), (0, 6, 9, 9), (1, 6, 3, 3), (2, 6, 120, 130)]
    for shape in [*shapes, *shapes[::-1]]:  # the last one twice in a row
        x = torch.randn(shape)
        torch.testing.assert_close(module(x), plain(x), rtol=1e-5, atol=1e-5)


@needs_compiler
def test_a_dense_layer_sees_new_sizes_and_threads():
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
    module, plain = FusedConv(copy.deepcopy(layers), "compiled"), nn.Sequential(*layers)
    before = torch.get_num_threads()
    try:
        for threads, width in [(1, 9), (1, 9), (1, 17), (2, 17), (2, 9)]:
            torch.set_num_threads(threads)
            x = torch.randn(2, 3, 11, width)
            torch.testing.assert_close(module(x), plain(x), rtol=1e-5, atol=1e-5)
        assert len(module._made[1]._plans) == 4
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_a_model_without_memory_goes_layer_by_layer():
    module = FusedConv([factored(8, 6, 12, 3)], "compiled").to("meta")
    assert module(torch.empty(2, 6, 9, 9, device="meta")).shape == (2, 12, 7, 7)


@both
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.bfloat16, 0.05)])
def test_other_precisions(path, dtype, tolerance):
    module = FusedConv([factored(8, 6, 12, 3), Maxout(2)], path)
    x, plain = torch.randn(2, 6, 9, 9), copy.deepcopy(module.layers).double()
    got, expected = module.to(dtype)(x.to(dtype)), plain(x.double())
    assert got.dtype == dtype
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


@both
@pytest.mark.parametrize("act", [Maxout(2), nn.ReLU(), Maxout(1)], ids=str)
def test_nan_is_not_lost(path, act):
    x = torch.randn(1, 3, 8, 8)
    x[0, 0, 4, 4] = torch.nan
    layers = [factored(8, 3, 8, 3), act]
    with torch.no_grad():
        layers[0].expand.bias[1:3] = torch.nan  # the second of one pair, the first of the other
    expected = nn.Sequential(*layers)(x).isnan()
    assert expected.any() and not expected.all()
    assert torch.equal(FusedConv(layers, path)(x).isnan(), expected)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes_by_plain_pytorch(mode):
    layers = [factored(8, 3, 4, (3, 5), padding=(1, 2), padding_mode=mode)]
    assert_same("portable", layers, torch.randn(2, 3, 9, 8))
    with pytest.raises(ValueError, match=f"padding mode '{mode}'"):
        FusedConv(layers, "compiled")


@both
def test_two_python_threads_at_once(path):
    module = FusedConv([factored(32, 6, 12, 3), Maxout(2)], path)
    inputs = [torch.randn(2, 6, 30 + 10 * i, 40) for i in range(2)]
    expected, wrong = [module(x) for x in inputs], []

    def work(x, right):
        for _ in range(50):
            if not torch.equal(module(x), right):
                wrong.append(x.shape)

    pairs = zip(inputs, expected, strict=True)
    threads = [threading.Thread(target=work, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("path", [*PATHS[:-1], compiled])
def test_maps_smaller_than_the_kernel(path):
    with pytest.raises((ValueError, RuntimeError), match="(?i)kernel"):
        FusedConv([factored(8, 3, 4, 5)], path)(torch.randn(1, 3, 4, 9))


@both
def test_wrong_channels_and_wrong_path(path):
    for samples in (0, 1):
        with pytest.raises(RuntimeError, match="channels"):
            FusedConv([factored(8, 3, 4, 5)], path)(torch.randn(samples, 4, 9, 9))
    with pytest.raises(ValueError, match="path must be one of 'dense, NCHW'.*got 'fast'"):
        FusedConv([factored(8, 3, 4, 5)], "fast")
    with pytest.raises(ValueError, match="Tanh"):
        FusedConv([factored(8, 3, 4, 5), nn.Tanh()], path)


@pytest.mark.parametrize(
    ("rest", "length"),
    [
        ([], 1),
        ([Maxout(2), nn.Conv2d(6, 5, 1), Maxout(5)], 4),
        ([nn.ReLU(), nn.ReLU()], 2),
        ([nn.Dropout(), nn.Conv2d(12, 5, 3)], 1),  # a trailing dropout is not worth taking
        ([nn.Conv2d(12, 5, 1, stride=2)], 1),
        ([nn.Conv2d(12, 6, 1, groups=2)], 1),
        ([Maxout(5)], 1),
        ([nn.BatchNorm2d(12)], 1),
    ],
    ids=str,
)
def test_what_a_chain_takes(rest, length):
    assert Chain([factored(2, 3, 12, 3), *rest]).length == length
