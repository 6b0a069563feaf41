"""A network as a whole: its steps compute what it does, in every runtime, where they may."""

import copy

import pytest
import torch
from fusing import assert_repeats, factored, needs_compiler
from torch import nn
from torch.nn import functional as F
from torchvision import tv_tensors

import cpnb
from cpnb.inference import contest, measured
from cpnb.inference.fused.program import Program
from cpnb.inference.graph import steps_of
from cpnb.inference.optimise import optimize_for_inference
from cpnb.inference.runtimes import PACKAGES, installed, prepared
from cpnb.inference.steps import NotTaken
from cpnb.inference.whole import Whole

pytestmark = pytest.mark.usefixtures("short_measurements")


class Block(nn.Module):
    """A residual block as torchvision's: factored, strided, with a shortcut of its own."""

    def __init__(self, before, maps, stride, activation):
        super().__init__()
        self.conv1 = factored(19, before, maps, 3, stride=stride, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(maps), nn.BatchNorm2d(maps)
        self.act = activation
        self.conv2 = factored(17, maps, maps, (5, 3), padding=(2, 1))
        short = nn.Conv2d(before, maps, 1, stride, bias=False), nn.BatchNorm2d(maps)
        self.short = nn.Sequential(*short) if stride > 1 else nn.Identity()

    def forward(self, x):
        y = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        y += self.short(x)
        return F.relu(y, inplace=True)


def residual(activation):
    return nn.Sequential(
        *(nn.Conv2d(3, 20, 7, 2, padding=3, bias=False), nn.BatchNorm2d(20), nn.ReLU()),
        *(nn.MaxPool2d(3, 2, padding=1), Block(20, 20, 1, activation)),
        *(Block(20, 24, 2, activation), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)),
    )


def plain():
    """As VGG, with a dense convolution behind a sum, and normalisation before a convolution."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.front = nn.Sequential(factored(9, 3, 18, 3, padding=1), nn.ReLU6())
            self.other, self.bn = nn.Conv2d(18, 18, 1), nn.BatchNorm2d(18)
            self.dense = nn.Conv2d(18, 33, 3, padding=1)
            self.pool = nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)
            self.head = nn.Sequential(nn.Dropout(), nn.Linear(33 * 6 * 5, 7), nn.SiLU())
            self.last = nn.Linear(7, 3)

        def forward(self, x):
            x = self.front(x)
            x = self.dense(F.relu(self.bn(x + self.other(x))))
            x = self.pool(F.max_pool2d(x, 2))
            return self.last(self.head(x.reshape(x.size(0), -1)))

    return Net()


def maps():
    """Maps come out, of factored layers that have other strides, dilations and paddings."""
    return nn.Sequential(
        factored(40, 3, 9, 3, stride=(1, 2), padding=(0, 2), dilation=(2, 1)),
        *(nn.SiLU(), nn.AvgPool2d((2, 1)), factored(5, 9, 70, 5, padding=2), nn.ReLU6()),
    )


def option_a():
    net = cpnb.CifarResNet(8)
    for name in ("layer2.0.conv1", "layer3.0.conv2"):
        parent, _, child = name.rpartition(".")
        conv = net.get_submodule(name)
        layer = factored(21, conv.in_channels, conv.out_channels, 3, stride=conv.stride, padding=1)
        setattr(net.get_submodule(parent), child, layer)
    return net


NETS = {
    "residual": (lambda: residual(nn.ReLU()), (2, 3, 51, 46)),
    "residual, SiLU": (lambda: residual(nn.SiLU()), (1, 3, 64, 64)),
    "plain": (plain, (3, 3, 24, 20)),
    "maps": (maps, (2, 3, 23, 31)),
    "option A": (option_a, (3, 3, 32, 32)),
}


def network(name):
    """In evaluation mode, with statistics that are not those of a fresh BatchNorm."""
    make, shape = NETS[name]
    net = make()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            part.weight.data.uniform_(0.5, 2)
            part.bias.data.normal_()
    return net.eval(), torch.randn(shape)


def assert_close(got, net, x, tolerance=1e-5):
    with torch.no_grad():
        expected = copy.deepcopy(net).double()(x.double())
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


@needs_compiler
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("split", [0, 10**9])
@pytest.mark.parametrize("name", NETS)
def test_the_compiled_steps_repeat_the_network(name, split, threads):
    net, x = network(name)
    run = Program(steps_of(net, x), threads, split)
    for given in (x, 2 * x + 1, x.contiguous(memory_format=torch.channels_last)):
        assert_close(run(given), net, given)


@pytest.mark.parametrize("runtime", PACKAGES)
@pytest.mark.parametrize("name", NETS)
def test_other_runtimes_repeat_the_network(name, runtime):
    if runtime not in installed():
        pytest.skip(f"{runtime} is not installed")
    net, x = network(name)
    run = prepared(runtime, steps_of(net, x), 1)
    assert_close(run(x), net, x)
    first, kept = run(2 * x), run(2 * x).clone()
    run(x)
    assert torch.equal(first, kept)  # a later pass does not write over it


def test_normalisation_activation_and_shortcut_are_drawn_into_the_layers():
    net, x = network("residual")
    kinds = [step.kind for step in steps_of(net, x)]
    assert kinds == [
        *("input", "conv", "maximum", "factored", "factored", "factored", "factored", "conv"),
        *("mean", "flatten", "linear"),
    ]


def test_stochastic_depth_is_known_by_its_name_and_has_no_effect():
    """The name is asked in place of the class: torchvision takes seconds to import."""
    from torchvision.ops import StochasticDepth

    net = nn.Sequential(nn.Conv2d(2, 3, 3), StochasticDepth(0.5, "row"), nn.ReLU())
    kinds = [step.kind for step in steps_of(net.eval(), torch.randn(1, 2, 5, 5))]
    assert kinds == ["input", "conv"]


def test_a_layer_that_takes_more_multiplies_factored_is_dense():
    net = nn.Sequential(factored(200, 8, 8, 3)).eval()
    assert [step.kind for step in steps_of(net, torch.randn(1, 8, 9, 9))] == ["input", "conv"]


def wins(monkeypatch, name):
    """The runtime of this name, whatever is measured."""

    def measured(contenders, example):
        """What is measured is what will be called: else a runtime looks faster than it is."""
        assert all(isinstance(run, Whole) for n, run in contenders.items() if n != contest.LAYERS)
        return {n: 1.0 if n == name else 2.0 for n in contenders}

    monkeypatch.setattr(contest, "_measured", measured)


def test_what_the_runtimes_would_leave_to_the_layers_is_not_measured_in_them():
    net, x = network("residual")
    with torch.no_grad():
        fast = optimize_for_inference(net, tv_tensors.Image(x))
    assert fast.report.choice == "layers" and not fast.report.whole
    assert any("plain tensor" in remark for remark in fast.report.remarks)
    assert_repeats(fast, net, x)


@needs_compiler
def test_what_wins_runs_the_network_and_is_told(monkeypatch):
    wins(monkeypatch, "cpnb")
    net, x = network("residual")
    fast = optimize_for_inference(net, x)
    assert isinstance(fast.forward, Whole) and fast.report.choice == "cpnb"
    assert type(fast) is type(net) and list(fast.state_dict()) != []
    assert "chosen: cpnb" in str(fast.report) and set(fast.report.whole) >= {"layers", "cpnb"}
    assert_repeats(fast, net, x)
    for other in (torch.randn(1, 3, 51, 46), torch.randn(2, 3, 33, 40), x.flip(0)):
        assert_repeats(fast, net, other)


def test_where_the_layers_win_they_stay(monkeypatch):
    wins(monkeypatch, "layers")
    net, x = network("residual")
    fast = optimize_for_inference(net, x)
    assert "forward" not in vars(fast) and fast.report.choice == "layers"
    assert_repeats(fast, net, x)


@pytest.fixture
def fast(monkeypatch):
    """(optimised by the compiled steps, a counter of their calls, the network, input)."""
    wins(monkeypatch, "cpnb")
    net, x = network("residual")
    calls = []
    run = Program.__call__
    monkeypatch.setattr(Program, "__call__", lambda self, x: calls.append(x) or run(self, x))
    made = optimize_for_inference(net, x)
    calls.clear()
    with torch.no_grad():
        made(x)
    assert len(calls) == 1
    calls.clear()
    return made, calls, net, x


@needs_compiler
def test_a_changed_weight_is_followed(fast):
    made, calls, net, x = fast
    for model in (made, net):
        with torch.no_grad():
            model[-1].weight.mul_(2)
            model[1].running_mean.add_(1)
    assert_repeats(made, net, x)
    assert not calls


@needs_compiler
def test_what_is_converted_computes_in_its_precision(fast):
    made, calls, net, x = fast
    made.double()
    assert_close(made(x.double()), net, x, 1e-7)  # a layer may be dense, rebuilt in float32
    assert made.float()(x).dtype == torch.float32 and not calls


@needs_compiler
def test_hooks_are_heard_and_gradients_flow(fast):
    made, calls, _, x = fast
    heard = []
    hook = made[-1].register_forward_hook(lambda module, args, output: heard.append(output))
    made(x)
    hook.remove()
    assert len(heard) == 1 and not calls
    wanted = x.clone().requires_grad_()
    made(wanted).sum().backward()
    assert wanted.grad.abs().max() > 0 and not calls


@needs_compiler
def test_training_mode_threads_copies_and_export(fast, tmp_path):
    made, calls, net, x = fast
    torch.save(made, tmp_path / "fast.pt")
    for other in (copy.deepcopy(made), torch.load(tmp_path / "fast.pt", weights_only=False)):
        assert_repeats(other, net, x)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    assert_repeats(made, net, x)
    torch.set_num_threads(threads)
    assert not calls
    exported = torch.export.export(made, (x,))
    torch.testing.assert_close(exported.module()(x), net(x), rtol=1e-4, atol=1e-4)
    assert not calls
    with pytest.warns(UserWarning, match="optimised already"):
        again = optimize_for_inference(made, x)
    assert_repeats(again, net, x)
    assert calls  # it has kept its runtime
    before, made[1].running_mean[:] = made(x), 100.0
    assert not torch.equal(made.train()(x), before)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = factored(4, 3, 6, 3)

    def forward(self, x):
        return self.conv(x) if x.sum() > 0 else self.conv(x).neg()


class Counts(Branches):
    def __init__(self):
        super().__init__()
        self.calls, self.seen = 0, []

    def forward(self, x):
        self.calls += 1
        return self.conv(x)


class Remembers(Counts):
    def forward(self, x):
        self.seen.append(1)
        return self.conv(x)


class Two(Branches):
    def forward(self, x):
        return self.conv(x), x


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Branches, "cannot be traced"),
        (Counts, "keeps something from call to call"),
        (Remembers, "keeps something from call to call"),
        (Two, "not one tensor"),
        (lambda: nn.Sequential(factored(4, 3, 6, 3), nn.Softplus()), "no step for Softplus"),
    ],
)
def test_what_no_runtime_takes_runs_by_its_layers(make, reason):
    net, x = make().eval(), torch.rand(2, 3, 9, 9)
    with pytest.raises(NotTaken, match=reason):
        steps_of(copy.deepcopy(net), x)
    fast = optimize_for_inference(net, x)
    assert reason in str(fast.report) and "forward" not in vars(fast)
    torch.testing.assert_close(fast(-x), net(-x), rtol=1e-4, atol=1e-4)


def test_hooks_keep_a_network_to_its_layers():
    net, x = network("residual")
    net[-1].register_forward_hook(lambda module, args, output: 2 * output)
    fast = optimize_for_inference(net, x)
    assert "it has hooks" in str(fast.report)
    assert_repeats(fast, net, x)


@pytest.mark.parametrize("broken", [False, True])
def test_what_was_measured_is_remembered_from_process_to_process(monkeypatch, tmp_path, broken):
    monkeypatch.setenv("CPNB_REMEMBER", "1")
    monkeypatch.setenv("CPNB_CACHE", str(tmp_path))
    monkeypatch.setattr(measured, "_memory", {})
    net, x = network("maps")
    before = optimize_for_inference(net, x)
    measured._memory.clear()  # as in a new process
    if broken:
        (tmp_path / "measurements.json").write_text("{")
    taken = []
    for module, name in ((contest, "_measured"), (contest.choice, "measure_interleaved")):
        measure = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, run=measure, **k: taken.append(1) or run(*a, **k)
        )
    again = optimize_for_inference(net, x)
    assert bool(taken) == broken
    if not broken:
        assert again.report.whole == before.report.whole
        assert [c.path for c in again.report.choices] == [c.path for c in before.report.choices]
    assert_repeats(again, net, x)
    optimize_for_inference(net, x[:1])  # another shape is another measurement
    assert taken


def test_nothing_is_remembered_where_it_is_not_wanted(monkeypatch, tmp_path):
    monkeypatch.setenv("CPNB_CACHE", str(tmp_path))
    measured.remember("key", {"a": 1.0})
    assert measured.recalled("key") is None and not list(tmp_path.iterdir())


def test_layers_alike_are_measured_once(monkeypatch):
    looks = []
    look = contest.choice._look
    monkeypatch.setattr(contest.choice, "_look", lambda m, x: looks.append(m.path) or look(m, x))
    wins(monkeypatch, "layers")
    net = nn.Sequential(*(factored(5, 6, 6, 3, padding=1) for _ in range(3))).eval()
    fast = optimize_for_inference(net, torch.randn(1, 6, 8, 8))
    assert len(fast.report.choices) == 3 and looks.count("factored") == 2
