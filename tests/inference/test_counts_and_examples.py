"""What is counted and measured is what runs: examples are batches, and nothing is left unsaid."""

import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from fusing import factored
from torch import nn
from torch.nn import functional as F

import cpnb
from cpnb.inference.roofline import time_stages

QUICK = {"runs": 2, "warmup": 1}


def tell(what, model, example):
    return {
        "count": lambda: cpnb.count_multiplies(model, example),
        "layers": lambda: cpnb.multiplies_per_layer(model, example),
        "latency": lambda: cpnb.measure_latency(model, example, **QUICK),
        "channels_last": lambda: cpnb.measure_latency(model, example, channels_last=True, **QUICK),
        "in turns": lambda: cpnb.measure_interleaved({"model": (model, example)}, **QUICK),
        "fastest": lambda: cpnb.measure_fastest({"model": model}, example, **QUICK),
        "dense": lambda: cpnb.fastest_dense(model, example, **QUICK),
        "optimise": lambda: cpnb.optimize_for_inference(model, example),
        "stages": lambda: time_stages(model, example, seconds=0.01),
    }[what]()


EVERY = ["count", "layers", "latency", "channels_last", "in turns", "fastest", "dense", "optimise"]


@pytest.mark.parametrize("what", [*EVERY, "stages"])
def test_an_example_without_its_batch_axis_is_refused(what):
    for model, example in (
        (nn.Conv2d(3, 4, 3), torch.randn(3, 8, 8)),
        (nn.Sequential(OrderedDict(a=nn.ReLU(), conv=nn.Conv2d(3, 4, 3))), torch.randn(3, 8, 8)),
        (nn.Sequential(nn.Linear(4, 3)), torch.randn(4)),
        (nn.Conv1d(3, 4, 3), torch.randn(3, 8)),
        (nn.Conv3d(3, 4, 3), torch.randn(3, 8, 8, 8)),
        (factored(2, 3, 4, 3), torch.randn(3, 8, 8)),
    ):
        shape = ", ".join(map(str, example.shape))
        with pytest.raises(
            ValueError, match=rf"must be a batch \(N, .*\({shape},?\).*example\[None\]"
        ):
            tell(what, model, example)
        assert not any(part._forward_pre_hooks for part in model.modules())


def test_the_count_of_an_example_with_its_axis():
    assert cpnb.count_multiplies(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8)) == 3_888


class Grey(nn.Module):
    """Takes images (N, H, W): three axes, and the first is the batch."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x):
        return self.conv(x[:, None])


def test_three_axes_may_be_a_batch():
    example = torch.randn(5, 8, 8)
    assert cpnb.count_multiplies(Grey(), example) == 9 * 4 * 36
    assert cpnb.measure_latency(Grey(), example, **QUICK).runs == 2
    assert cpnb.count_multiplies(nn.Conv1d(3, 4, 3), torch.randn(2, 3, 8)) == 3 * 3 * 4 * 6
    assert cpnb.count_multiplies(nn.Embedding(9, 3), torch.arange(4)) == 0


# Layouts


def test_what_has_no_two_layouts_is_measured_as_it_is():
    dense = nn.Sequential(OrderedDict(fc1=nn.Linear(20, 10), relu=nn.ReLU(), fc2=nn.Linear(10, 3)))
    small = cpnb.decompose(dense, {"fc1": 2}, method="svd")
    found = cpnb.measure_fastest({"dense": dense, "small": small}, torch.randn(4, 20), **QUICK)
    assert {layout for layout, _ in found.values()} == {"contiguous"}
    assert all(latency.runs == 2 for _, latency in found.values())
    assert cpnb.fastest_dense(nn.Conv1d(3, 4, 3), torch.randn(2, 3, 8), **QUICK)[0] == "contiguous"
    cpnb.fastest_dense(nn.Conv3d(3, 4, 3), torch.randn(2, 3, 8, 8, 8), **QUICK)
    with pytest.raises(
        ValueError, match=r"channels_last=True needs an example \(N, C, H, W\), got"
    ):
        cpnb.measure_latency(dense, torch.randn(4, 20), channels_last=True)


def test_stages_of_any_shape_and_of_modules_that_run_twice():
    relu = nn.ReLU()
    model = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(2, 2, 3, padding=1), relu=relu, twice=nn.Flatten())
    )
    model.add_module("fc", nn.Linear(72, 72))
    model.add_module("again", model.fc)
    rows = {row["stage"]: row for row in time_stages(model, torch.randn(5, 2, 6, 6), seconds=0.01)}
    assert list(rows) == ["conv", "relu", "twice", "fc", "fc, call 2"]
    assert rows["fc"]["multiplies"] == rows["fc, call 2"]["multiplies"] == 5 * 72 * 72
    assert rows["fc"]["bytes"] == 4 * (2 * 5 * 72 + 72 * 73)
    assert rows["conv"]["multiplies"] == 5 * 2 * 2 * 9 * 36


def test_numbers_of_numpy_are_numbers():
    latency = cpnb.measure_latency(
        nn.Linear(3, 3), torch.randn(2, 3), runs=np.int64(2), warmup=np.int32(1),
        threads=np.int64(1), seconds=np.float32(0.1),
    )  # fmt: skip
    assert (latency.runs, latency.threads) == (2, 1)


# What layers compute, and what is computed past them


class Functional(nn.Module):
    """Convolutions and products in other ways than by calling a layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.kernel = nn.Conv2d(3, 4, 3), nn.Parameter(torch.randn(5, 4, 3, 3))
        self.up = nn.Parameter(torch.randn(5, 2, 2, 2))
        self.fc, self.hidden = nn.Linear(2 * 64, 6), [nn.Linear(6, 7)]

    def forward(self, x):
        x = F.conv2d(x, self.conv.weight, self.conv.bias)  # the layer itself is not called
        x = F.conv2d(input=x, weight=self.kernel)
        x = F.conv_transpose2d(x, self.up, stride=2)
        x = self.fc.forward(x.flatten(1))
        return self.hidden[0](x)  # in a plain list, where no one finds it


def test_functional_convolutions_count_too():
    example = torch.randn(2, 3, 8, 8)
    by_hand = [3 * 4 * 9 * 36, 4 * 5 * 9 * 16, 5 * 16 * 2 * 4, 2 * 64 * 6, 6 * 7]
    assert cpnb.multiplies_per_layer(Functional(), example) == {"": sum(by_hand)}
    inside = nn.Sequential(OrderedDict(body=Functional(), fc=nn.Linear(7, 2)))
    assert cpnb.multiplies_per_layer(inside, example) == {"body": sum(by_hand), "fc": 14}


class Standardised(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias)


def test_a_subclass_is_counted_once():
    assert cpnb.count_multiplies(Standardised(3, 4, 3), torch.randn(2, 3, 8, 8)) == 3_888


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc, self.rnn = nn.Linear(8, 5), nn.LSTM(5, 3, batch_first=True)
        self.table = nn.Parameter(torch.randn(3, 4))

    def forward(self, x):
        return self.rnn(self.fc(self.mix(x, x, x)[0]))[0] @ self.table


def test_products_that_are_not_counted_are_told():
    example = torch.randn(2, 6, 8)
    for count in (cpnb.count_multiplies, cpnb.multiplies_per_layer):
        with pytest.warns(UserWarning) as told:
            counted = count(Attends(), example)
        assert counted in (6 * 40, {"fc": 6 * 40})
        (text,) = [str(w.message) for w in told if "not counted" in str(w.message)]
        assert "multi_head_attention_forward in 'mix', lstm in 'rnn', matmul in the model" in text
        assert told[0].filename == __file__
    with pytest.warns(UserWarning, match="not counted.* in 'self_attn'"):
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        assert cpnb.multiplies_per_layer(layer, example) == {"linear1": 768, "linear2": 768}


def test_nothing_is_told_of_plain_models():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cpnb.count_multiplies(cpnb.CharNet(), torch.randn(1, 1, 24, 24)) == 35_957_248
        Shared.check()


class Shared(nn.Module):
    """One layer under two names, in a list, and called three times."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 2, 3, padding=1)
        self.b, self.stack = self.a, [self.a]

    def forward(self, x):
        return self.b(self.a(self.stack[0](x)))

    @classmethod
    def check(cls):
        assert cpnb.multiplies_per_layer(cls(), torch.randn(3, 2, 5, 5)) == {"a": 3 * 36 * 25}


def test_an_error_that_the_model_catches_does_not_confuse():
    class Catches(nn.Module):
        def __init__(self):
            super().__init__()
            self.fails, self.fc = nn.Sequential(nn.Linear(9, 9)), nn.Linear(4, 3)

        def forward(self, x):
            try:
                return self.fails(x)
            except RuntimeError:
                return self.fc(x)

    assert cpnb.multiplies_per_layer(Catches(), torch.randn(2, 4)) == {"fc": 12}


def test_compiled_models_are_counted_and_scripts_refused():
    net, example = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), torch.randn(2, 3, 8, 8)
    wrapped = torch.compile(net, backend="eager")
    within = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    within.compile(backend="eager")
    for model in (wrapped, within):
        with torch.inference_mode():
            model(example)
        assert cpnb.count_multiplies(model, example) == 3_888
    with pytest.warns((FutureWarning, DeprecationWarning), match="deprecated"):
        script = torch.jit.trace(net, example)
    with pytest.raises(TypeError, match="made of Python modules to be counted, got TorchScript"):
        cpnb.count_multiplies(script, example)
