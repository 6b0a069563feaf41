"""No silent wrong answer: models as people have them, through the public calls, one draw at a time.

Every draw must either give what plain PyTorch gives, or a clear error where one is due. A draw that
fails without a reason, or passes in spite of one, fails the test.
"""

import copy
import math
import re
import warnings
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode

import cpnb

SIZE = 9, 8
CLASSES = 3


class PaddedConv2d(nn.Conv2d):
    def forward(self, x):
        return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))


class PaddedLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x) + x.mean(-1, keepdim=True)


class TaggedConv2d(nn.Conv2d):
    stage = 1


class TaggedLinear(nn.Linear):
    stage = 1


def pruned(layer):
    return prune.l1_unstructured(layer, "weight", amount=0.3)


def hooked(layer):
    layer.register_forward_pre_hook(lambda module, args: (args[0] + 0.5,))
    layer.register_forward_hook(lambda module, args, out: 2 * out)
    layer.register_full_backward_hook(lambda module, inputs, outputs: None)
    return layer


def dead_group(layer):
    with torch.no_grad():
        layer.weight[: len(layer.weight) // getattr(layer, "groups", 1)] = 0
    return layer


SUBCLASSES = {
    "plain": (nn.Conv2d, nn.Linear),
    "other forward": (PaddedConv2d, PaddedLinear),
    "same forward": (TaggedConv2d, TaggedLinear),
}
WEIGHTS = {
    "own": lambda layer: layer,
    "spectral norm, by hook": nn.utils.spectral_norm,
    "weight norm, by hook": nn.utils.weight_norm,
    "pruned": pruned,
    "spectral norm": parametrizations.spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "one dead group": dead_group,
}
BY_HOOK = ("spectral norm, by hook", "weight norm, by hook", "pruned")
WAYS = ("attribute", "shared", "list", "nested", "method", "function")
# How the rank is chosen, and whether the fit is exact at it.
METHODS = {
    "nls": False,
    "als": False,
    "greedy": False,
    "jaderberg": True,
    "jaderberg, scheme 1": False,
    "biclustering": False,
    "biclustering, svd": True,
    "monochromatic": False,
    "tucker": True,
    "tucker, energy": False,
    "svd": True,
}


@dataclass
class Draw:
    """One model and how it is decomposed; `seed` draws the weights and the input."""

    subclass: str
    weights: str
    way: str
    hooks: bool
    channels: int
    grouping: int | str
    kernel: tuple
    stride: tuple
    dilation: int
    padding_mode: str
    bias: bool
    dtype: torch.dtype
    batch: int
    training: bool
    frozen: bool
    method: str
    rank: int
    by_example: bool
    seed: int

    @property
    def groups(self) -> int:
        return self.channels if self.grouping == "depthwise" else self.grouping

    @property
    def layer(self) -> str:
        return "head" if self.method == "svd" else "conv"

    @property
    def refused(self) -> bool:
        """Whether `decompose` must refuse the model."""
        return self.subclass == "other forward" or self.weights in BY_HOOK or self.way == "function"

    @property
    def dead(self) -> bool:
        """Whether all weights are zero."""
        return self.weights == "one dead group" and (self.method == "svd" or self.groups == 1)


def draws():
    return st.builds(
        Draw,
        # Most of the draws are of models that can be decomposed.
        st.sampled_from(["plain", *SUBCLASSES, "same forward", "plain"]),
        st.sampled_from([*WEIGHTS, "own", "own", "own", "own", "spectral norm", "weight norm"]),
        st.sampled_from([*WAYS, "attribute", "shared", "list"]),
        st.booleans(),
        st.sampled_from([3, 4]),
        st.sampled_from([1, 2, "depthwise"]),
        st.tuples(st.integers(1, 3), st.integers(1, 3)),
        st.tuples(st.integers(1, 2), st.integers(1, 2)),
        st.integers(1, 2),
        st.sampled_from(["zeros", "zeros", "reflect", "circular"]),
        st.booleans(),
        st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16]),
        st.sampled_from([2, 3, 2, 1, 0]),
        st.booleans(),
        st.booleans(),
        st.sampled_from(list(METHODS)),
        st.integers(1, 3),
        st.booleans(),
        st.integers(0, 1000),
    ).filter(_makes_sense)


def _makes_sense(draw: Draw) -> bool:
    colour = draw.channels == 3 and draw.groups == 1
    return draw.channels % draw.groups == 0 and (draw.method != "monochromatic" or colour)


class Net(nn.Module):
    """A stem, the layer in question, reached in one way or another, and a linear head."""

    def __init__(self, draw: Draw):
        super().__init__()
        self.way, c = draw.way, draw.channels
        conv, linear = SUBCLASSES[draw.subclass] if draw.layer == "conv" else (nn.Conv2d, nn.Linear)
        if draw.layer == "head":
            linear = SUBCLASSES[draw.subclass][1]
        padding = tuple(draw.dilation * (k // 2) for k in draw.kernel)
        self.stem = nn.Conv2d(c, c, 1)
        self.conv = conv(
            c, c, draw.kernel, draw.stride, padding, draw.dilation, draw.groups, draw.bias,
            draw.padding_mode,
        )  # fmt: skip
        self.head = linear(c, CLASSES, bias=draw.bias)
        if self.way == "shared":
            self.again = self.conv
        elif self.way == "list":
            self.stack = [self.stem, self.conv]
        elif self.way == "nested":
            self.table = {"by": ({"name": self.conv},), "head": [self.head]}
        elif self.way == "method":
            self.run = self.conv.__call__
        elif self.way == "function":
            self.run = lambda x: self.conv(x)

    def forward(self, x):
        if self.way == "list":
            for layer in self.stack:
                x = layer(x)
        elif self.way == "nested":
            x = self.table["by"][0]["name"](self.stem(x))
        elif self.way in ("method", "function"):
            x = self.run(self.stem(x))
        else:
            x = self.conv(self.stem(x))
        if self.way == "shared":
            x = self.again(x.relu()) if min(x.shape[-2:]) > 3 else x
        head = self.table["head"][0] if self.way == "nested" else self.head
        return head(x.relu().mean((2, 3)))


def made(draw: Draw) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(draw.seed)
    net = Net(draw).to(draw.dtype)
    layer = net.get_submodule(draw.layer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch: the old weight_norm is deprecated
        WEIGHTS[draw.weights](layer)
    if draw.hooks:
        hooked(layer)
    x = torch.randn(draw.batch, draw.channels, *SIZE).to(draw.dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(1.25)  # what hooks computed before is stale
    net.stem.requires_grad_(not draw.frozen)
    return net.train(draw.training), x


def options_of(draw: Draw) -> dict:
    """Arguments of `decompose`: full rank, or the one drawn."""
    way, (kh, kw) = draw.method, draw.kernel
    maps, few = draw.channels // draw.groups, {"n_iter_max": 3}
    rank, more = {
        "nls": (draw.rank, few),
        "als": (draw.rank, few),
        "greedy": (draw.rank, {}),
        "jaderberg": (maps * min(kh, kw), {}),
        "jaderberg, scheme 1": (min(draw.rank, kh * kw), {"scheme": 1} | few),
        "biclustering": (1, {"clusters": (1, maps)}),
        "biclustering, svd": ((maps, maps), {"clusters": (1, 1), "blocks": "svd"}),
        "monochromatic": (3, {}),
        "tucker": ((maps, maps), {}),
        "tucker, energy": (0.6, {}),
        "svd": (min(draw.channels, CLASSES), {}),
    }[way]
    return {"ranks": {draw.layer: rank}, "method": way.split(",")[0], **more}


def decomposed(draw: Draw):
    """The model, its input, and its decomposed copy; None where that was rightly refused."""
    net, x = made(draw)
    before = copy.deepcopy({k: v.detach().clone() for k, v in net.state_dict().items()})
    example = {"example": x} if draw.by_example else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a rank costs more, that a norm stays behind
            small = cpnb.decompose(net, **options_of(draw), **example)
    except (TypeError, ValueError) as error:
        assert draw.refused or draw.dead, f"refused without a reason: {error}"
        assert re.search(rf"layer '{draw.layer}'|functions that hold parts|can copy", str(error))
        return net, x, None
    assert not draw.refused and not draw.dead, "what cannot be taken was taken"
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    return net, x, small


def outputs(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    modes = [(module, module.training) for module in net.modules()]
    with torch.no_grad():
        out = net.eval()(x)
    for module, training in modes:
        module.training = training
    return out


def expected(draw: Draw, net: nn.Module, x: torch.Tensor, small: nn.Module) -> torch.Tensor:
    """What the model itself gives: as it is, or, at less than full rank, with rebuilt weights."""
    if METHODS[draw.method]:
        return outputs(net, x)
    layer = net.get_submodule(draw.layer)
    layer.forward = small.get_submodule(draw.layer).to_conv().forward
    try:
        return outputs(net, x)
    finally:
        del layer.forward


def rounding(dtype: torch.dtype) -> float:
    """What rounding may change, relative to the largest value.

    A layer of four factors rounds each of them and four maps, and may run twice: some ten roundings
    in a row, with a margin of ten. In bfloat16, with 8 bits, a margin of two has to do.
    """
    eps = torch.finfo(dtype).eps
    return (100 if eps < 1e-4 else 20) * eps


def tolerance(draw: Draw, out: torch.Tensor, small: nn.Module) -> float:
    """Rounding of the factors and of the maps between them.

    Terms of CP that cancel are larger than their sum by the root of their degeneracy.
    """
    layer = small.get_submodule(draw.layer)
    terms = math.sqrt(max(1.0, getattr(layer, "degeneracy", 1.0)))
    return rounding(draw.dtype) * terms * max(1.0, float(out.abs().max()) if out.numel() else 1.0)


def assert_same(draw: Draw, got: torch.Tensor, out: torch.Tensor, small: nn.Module) -> None:
    assert got.shape == out.shape and got.dtype == out.dtype == draw.dtype
    torch.testing.assert_close(got, out, rtol=0, atol=tolerance(draw, out, small))


def api(examples: int):
    """Decorate a test of one draw."""

    def decorate(test):
        slow = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
        own = settings(max_examples=examples, suppress_health_check=slow)
        return own(given(draw=draws())(test))

    return decorate


@api(200)
def test_decompose(draw):
    net, x, small = decomposed(draw)
    if small is None:
        return
    assert_same(draw, outputs(small, x), expected(draw, net, x, small), small)
    layer, old = (model.get_submodule(draw.layer) for model in (small, net))
    assert small.training is layer.training is draw.training
    assert all(p.requires_grad for p in layer.parameters())
    assert layer.weight.shape == old.weight.shape and layer.weight.dtype == draw.dtype
    assert small.stem.weight.requires_grad is not draw.frozen


@api(80)
def test_finetune_one_step(draw):
    net, x, small = decomposed(draw)
    assume(small is not None)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    data = TensorDataset(x, torch.arange(len(x)) % CLASSES)
    start = {name: p.detach().clone() for name, p in small.named_parameters()}
    call = {"epochs": 1, "lr": 1e-2, "progress": False, "device": "cpu", "schedule": "constant"}
    if not len(x):
        with pytest.raises(ValueError, match="loader|samples"):
            cpnb.finetune(small, data, **call)
        return
    (row,) = cpnb.finetune(small, data, **call, warmup=0.0, momentum=0.0, weight_decay=0.0)
    # The step that plain PyTorch takes.
    own = copy.deepcopy(small).train()
    with torch.no_grad():
        for name, parameter in own.named_parameters():
            parameter.copy_(start[name])
    loss = nn.functional.cross_entropy(own(x), data.tensors[1])
    close = 1e-5 if x.dtype.itemsize > 2 else 0.1
    assert row["train_loss"] == pytest.approx(float(loss.detach()), rel=close)
    trained = [p for p in own.parameters() if p.requires_grad]
    loss.backward()
    nn.utils.clip_grad_norm_(trained, 1.0)
    for (name, got), parameter in zip(small.named_parameters(), own.parameters(), strict=True):
        step = 1e-2 * (torch.zeros(1) if parameter.grad is None else parameter.grad)
        close = {"rtol": 4 * torch.finfo(draw.dtype).eps, "atol": rounding(draw.dtype)}
        close["atol"] *= float(step.abs().max())
        torch.testing.assert_close(got.detach(), (start[name] - step).to(draw.dtype), **close)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    hits = outputs(small, x).argmax(1) == data.tensors[1]
    assert cpnb.accuracy(small, data) == pytest.approx(float(hits.float().mean()))


@api(80)
def test_optimise(draw, short_measurements):
    net, x, small = decomposed(draw)
    assume(small is not None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing could be optimised
        if not len(x):
            with pytest.raises(ValueError, match="example must hold a batch"):
                cpnb.optimize_for_inference(small, x)
            return
        fast = cpnb.optimize_for_inference(small, x)
    assert_same(draw, outputs(fast, x), outputs(small, x), small)
    more = torch.randn(5, *x.shape[1:]).to(x.dtype)
    assert_same(draw, outputs(fast, more), outputs(small, more), small)


@api(100)
def test_count(draw):
    net, x, small = decomposed(draw)
    for model in (net, small):
        if model is None:
            continue
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            if not len(x):
                with pytest.raises(ValueError, match="must hold a batch"):
                    cpnb.count_multiplies(model, x)
                continue
            counted = cpnb.count_multiplies(model, x)
        if not any("not counted" in str(w.message) for w in told):
            with FlopCounterMode(display=False) as counter:
                outputs(model, x)
            assert counted == counter.get_total_flops() // 2 // len(x)


@api(40)
def test_measure(draw):
    net, x, small = decomposed(draw)
    assume(small is not None)
    before = outputs(small, x)
    if not len(x):
        with pytest.raises(ValueError, match="must hold a batch"):
            cpnb.measure_latency(small, x, runs=1, warmup=0)
        return
    latency = cpnb.measure_latency(small, x, runs=1, warmup=0)
    assert latency.runs == 1 and latency.median_ms > 0
    assert str(draw.dtype).removeprefix("torch.") in latency.dtype
    assert torch.equal(outputs(small, x), before) and small.training is draw.training


def test_the_draws_are_of_many_kinds():
    """Each kind comes often enough for the others to say something."""
    seen = []

    @settings(max_examples=300, database=None)
    @given(draw=draws())
    def collect(draw):
        seen.append(draw)

    collect()
    assert sum(draw.refused for draw in seen) < 0.6 * len(seen)
    for name in ("subclass", "weights", "way", "method", "batch", "dtype", "grouping", "dilation"):
        values = [getattr(draw, name) for draw in seen]
        assert all(values.count(value) >= 5 for value in set(values)), name
