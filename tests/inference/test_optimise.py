"""The optimised model repeats the model, tells what it chose, and leaves everything else alone."""

import copy
import threading
import warnings

import pytest
import torch
from fusing import assert_repeats, factored
from torch import nn

import cpnb
from cpnb.inference.fused import choice, native
from cpnb.inference.fused.module import PATHS, FusedConv
from cpnb.inference.optimise import optimize_for_inference
from cpnb.layers.cp import CPConv2d
from cpnb.layers.jaderberg import VerticalHorizontal
from cpnb.nets.charnet import Maxout

pytestmark = pytest.mark.usefixtures("short_measurements")


def charnet():
    net = cpnb.load_charnet()
    for name in ("conv2", "conv3"):
        setattr(net, name, CPConv2d(getattr(net, name), 16))
    return net


@pytest.mark.parametrize("shape", [(1, 1, 24, 24), (5, 1, 24, 24), (1, 1, 40, 53)])
def test_charnet_repeats_its_outputs(shape):
    net = charnet()
    before = copy.deepcopy(net.state_dict())
    fast = optimize_for_inference(net, torch.randn(shape))
    for other in (shape, (0, 1, 24, 24), (3, 1, 24, 24), (2, 1, 31, 25)):
        assert_repeats(fast, net, torch.randn(other))
    assert type(fast) is type(net) and not fast.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert isinstance(net.conv2, CPConv2d) and net.conv2.expand.weight.requires_grad


def test_the_report_names_layers_times_and_choice():
    fast = optimize_for_inference(charnet(), torch.randn(2, 1, 24, 24))
    text = str(fast.report)
    names = [c.names for c in fast.report.choices]
    assert names == [
        *(["conv1", "maxout1"], ["conv2", "maxout2"], ["conv3", "maxout3", "conv4", "maxout4"])
    ]
    assert "conv3 + maxout3 + conv4 + maxout4" in text and "2x64x8x8" in text
    for made in fast.report.choices:
        assert set(made.milliseconds) <= set(PATHS) and made.path in made.milliseconds
        assert fast.get_submodule(made.names[0]).path == made.path
    assert isinstance(fast.maxout1, nn.Identity)


@pytest.mark.parametrize("dense,seen", [(9.0, True), (11.0, False)])
def test_a_dense_form_slower_by_far_is_not_timed_twice(monkeypatch, dense, seen):
    monkeypatch.setattr(choice, "_look", lambda module, x: dense if module.path == "dense" else 1.0)
    fast = optimize_for_inference(charnet(), torch.randn(2, 1, 24, 24))
    assert ["dense, NCHW" in c.milliseconds for c in fast.report.choices] == [seen] * 3


def test_no_path_is_hopeless_for_one_slow_pass(monkeypatch):
    """As a first pass often is, or one in which the machine paused."""
    slow, measured, measure = {"dense": 50.0}, [], choice.measure_interleaved
    always = {"dense": 1.0, "factored": 1.5}

    def in_turns(contenders, **options):
        measured.append(set(contenders))
        return measure(contenders, **options)

    monkeypatch.setattr(
        choice, "_look", lambda module, x: slow.pop(module.path, always.get(module.path, 9.0))
    )
    monkeypatch.setattr(choice, "measure_interleaved", in_turns)
    optimize_for_inference(nn.Sequential(factored(6, 4, 8, 3)).eval(), torch.randn(2, 4, 9, 9))
    assert measured == [{"dense", "factored"}]


def test_the_fastest_path_is_taken(monkeypatch):
    # The others in less time than a pass takes: looks do not count beside what is measured.
    monkeypatch.setattr(choice, "_look", lambda module, x: 1e-9 if module.path == "dense" else 3e-9)
    net = charnet()
    fast = optimize_for_inference(net, torch.randn(2, 1, 24, 24))
    assert {c.path for c in fast.report.choices} == {"dense"}
    assert all(c.milliseconds["dense"] > 1e-6 for c in fast.report.choices)  # measured, warm
    assert type(fast.conv2.layers[0]) is nn.Conv2d  # dense again, not factored
    assert_repeats(fast, net, torch.randn(2, 1, 24, 24))


def test_dropout_between_layers_is_passed():
    net = cpnb.CharNet(dropout=0.5).eval()
    net.conv2 = CPConv2d(net.conv2, 8)
    fast = optimize_for_inference(net, torch.randn(2, 1, 24, 24))
    assert_repeats(fast, net, torch.randn(2, 1, 24, 24))


RIVALS = {
    "jaderberg": {"rank": 6, "scheme": 2},
    "jaderberg, scheme 1": {"rank": 2, "scheme": 1},
    "tucker": {"rank": (3, 5)},
    "biclustering": {"rank": 3, "clusters": (2, 2)},
}


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_layers_are_taken_apart_and_repeat_their_outputs(name):
    conv = nn.Conv2d(4, 12, 3, padding=1)
    net = nn.Sequential(nn.Sequential(conv, nn.ReLU()), nn.Conv2d(12, 8, 1), nn.ReLU()).eval()
    net = cpnb.decompose(net, {"0.0": RIVALS[name]["rank"]}, name.split(",")[0], **{
        key: value for key, value in RIVALS[name].items() if key != "rank"
    })  # fmt: skip
    rival = net[0][0]
    fast = optimize_for_inference(net, torch.randn(2, 4, 9, 10))
    assert net[0][0] is rival
    for shape in ((2, 4, 9, 10), (1, 4, 7, 6), (0, 4, 9, 10)):
        assert_repeats(fast, net, torch.randn(shape))
    names = [name for c in fast.report.choices for name in c.names]
    if name == "biclustering":  # it shuffles maps between its parts, so it stays as it is
        assert not any(n.startswith("0.0") for n in names)
    else:
        assert names[0] == "0.0.first" and {"0.0.last", "0.1", "1", "2"} <= set(names)
        assert {"0.0.last", "2"} <= set(fast.report.choices[-1].names)


def test_a_rivals_layer_by_itself_is_taken_apart():
    layer = VerticalHorizontal.from_conv(nn.Conv2d(4, 6, 3), 3).eval()
    fast = optimize_for_inference(layer, torch.randn(2, 4, 8, 8))
    assert_repeats(fast, layer, torch.randn(3, 4, 9, 7))
    assert [c.names for c in fast.report.choices] == [["first"], ["last"]]


class Shared(nn.Module):
    """One factored layer, used twice, and an activation that is a function."""

    def __init__(self):
        super().__init__()
        self.conv = factored(6, 4, 4, 3, padding=1)

    def forward(self, x):
        return {"maps": (torch.relu(self.conv(self.conv(x))),)}


def test_a_factored_layer_by_itself_is_replaced():
    layer, x = factored(6, 4, 8, 3), torch.randn(2, 4, 9, 9)
    fast = optimize_for_inference(layer, x)
    assert isinstance(fast, FusedConv) and fast.path == fast.report.choices[0].path
    assert_repeats(fast, layer, x)


def test_saved_and_loaded(tmp_path):
    net, x = charnet(), torch.randn(2, 1, 24, 24)
    torch.save(optimize_for_inference(net, x), tmp_path / "fast.pt")
    assert_repeats(torch.load(tmp_path / "fast.pt", weights_only=False), net, x)


def test_a_model_that_writes_into_its_input_leaves_the_example():
    class Centred(nn.Sequential):
        def forward(self, x):
            return super().forward(x.sub_(0.5))

    net, x = Centred(factored(6, 4, 8, 3)).eval(), torch.randn(2, 4, 9, 9)
    before = x.clone()
    fast = optimize_for_inference(net, x)
    assert torch.equal(x, before)
    torch.testing.assert_close(fast(x.clone()), net(x.clone()), rtol=1e-5, atol=1e-5)


def test_a_layer_used_twice_in_any_module():
    net, x = Shared().eval(), torch.randn(2, 4, 9, 9)
    fast = optimize_for_inference(net, x)
    assert isinstance(fast.conv, FusedConv)
    torch.testing.assert_close(fast(x)["maps"], net(x)["maps"], rtol=1e-5, atol=1e-5)


def test_hooked_layers_are_left_alone():
    net = nn.Sequential(factored(6, 4, 8, 3), nn.ReLU(), factored(6, 8, 8, 3)).eval()
    net[0].register_forward_hook(lambda module, args, output: 2 * output)
    fast = optimize_for_inference(net, torch.randn(2, 4, 9, 9))
    assert [c.names for c in fast.report.choices] == [["2"]]
    assert_repeats(fast, net, torch.randn(2, 4, 9, 9))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.bfloat16, 0.1)])
def test_other_precisions(dtype, tolerance):
    net = charnet().to(dtype)
    fast = optimize_for_inference(net, torch.randn(2, 1, 24, 24, dtype=dtype))
    assert_repeats(fast, net, torch.randn(3, 1, 24, 24, dtype=dtype), tolerance)
    assert "the kernel takes float32 on the CPU" in str(fast.report)


def test_two_threads_at_once():
    net, x = charnet(), torch.randn(4, 1, 24, 24)
    fast, got = optimize_for_inference(net, x), []
    threads = [threading.Thread(target=lambda: got.append(fast(x))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4 and all(torch.equal(one, got[0]) for one in got)


def test_a_model_with_no_factored_layer_is_returned_as_it_is():
    net = cpnb.load_charnet()
    with pytest.warns(UserWarning, match="no factored layer"):
        fast = optimize_for_inference(net, torch.randn(2, 1, 24, 24))
    assert "no factored layer" in str(fast.report) and not hasattr(net, "report")
    assert [type(m) for m in fast.modules()] == [type(m) for m in net.modules()]


def test_without_a_compiler_one_warning(monkeypatch):
    def none():
        raise native.KernelUnavailable("there is no C++ compiler")

    monkeypatch.setattr(native, "library", none)
    net = charnet()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fast = optimize_for_inference(net, torch.randn(2, 1, 24, 24))
    ours = [str(w.message) for w in told if w.category is UserWarning]
    assert ours == ["optimize_for_inference goes on in plain PyTorch: there is no C++ compiler"]
    assert "there is no C++ compiler" in str(fast.report)
    assert_repeats(fast, net, torch.randn(2, 1, 24, 24))


def test_bad_input():
    net = charnet()
    with pytest.raises(
        ValueError, match=r"example has a shape that CharNet does not take, \(2, 3,"
    ):
        optimize_for_inference(net, torch.randn(2, 3, 24, 24))
    with pytest.raises(TypeError, match="example must be a tensor, got list"):
        optimize_for_inference(net, [1])
    with pytest.raises(TypeError, match="model must be an nn.Module"):
        optimize_for_inference(lambda x: x, torch.randn(2, 1, 24, 24))
    with pytest.raises(ValueError, match="example is on meta, the model on cpu"):
        optimize_for_inference(net, torch.randn(2, 1, 24, 24, device="meta"))


def test_export_is_that_of_the_layers_one_by_one():
    net = nn.Sequential(factored(6, 4, 8, 3), Maxout(2), nn.Flatten()).eval()
    x = torch.randn(2, 4, 9, 9)
    fast = optimize_for_inference(net, x)
    exported = torch.export.export(fast, (x,))
    torch.testing.assert_close(exported.module()(x), net(x), rtol=1e-5, atol=1e-5)
    assert any("conv2d" in str(node.target) for node in exported.graph.nodes)
