"""Networks as people bring them, from a plan to an exported file; outputs compared on the way.

Small inputs, random weights, a few layers of each kind: what is shown is that nothing breaks and
that every step computes what the one before did.
"""

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision

import cpnb
from cpnb.inference import compression, planning
from cpnb.training.layer_fit import Steps

TORCHVISION = {
    "resnet18": (["layer1.0.conv1", "layer2.0.conv1", "layer2.0.downsample.0", "fc"], 64),
    "resnet50": (["layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv3"], 64),
    "vgg16_bn": (["features.3", "features.10", "classifier.6"], 32),
    "mobilenet_v2": (["features.3.conv.0.0", "features.18.0", "classifier.1"], 64),
    "densenet121": (["features.denseblock1.denselayer1.conv2", "features.transition1.conv"], 64),
    "squeezenet1_1": (["features.3.expand3x3", "features.7.squeeze"], 64),
    "efficientnet_b0": (["features.2.0.block.0.0", "features.8.0"], 64),
}


def network(name):
    torch.manual_seed(0)
    if name.startswith("cifar"):
        return cpnb.CifarResNet(int(name.removeprefix("cifar"))).eval(), None, 32
    layers, size = TORCHVISION[name]
    net = getattr(torchvision.models, name)(weights=None)
    if name == "vgg16_bn":  # of its 124 million weights a test would copy half a gigabyte a step
        net.avgpool, net.classifier[0] = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Linear(512, 4096)
        net.classifier[3] = torch.nn.Linear(4096, 256)
        net.classifier[6] = torch.nn.Linear(256, 1000)
    return net.eval(), layers, size


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """How good a fit is does not matter here."""
    for room in (planning, compression):
        for steps in ("STEPS", "LARGE_STEPS"):
            monkeypatch.setattr(room, steps, Steps(solver=2, fit=2))
    monkeypatch.setattr(planning, "FACTORS", (1.5, 4.0))


@pytest.mark.parametrize("name", [*TORCHVISION, "cifar8"])
def test_from_a_plan_to_an_exported_file(name, tmp_path, short_measurements):
    model, layers, size = network(name)
    images = torch.randn(8, 3, size, size)
    plan = cpnb.plan(model, images[:2], images, multiplies=0.99, layers=layers, progress=False)
    plan.ranks = {n: max(x.curve) for n, x in plan.layers.items() if x.curve}
    assert len(plan.ranks) == len(layers or plan.ranks) > 0
    small = cpnb.compress(model, plan, images, progress=False)
    assert cpnb.count_multiplies(small, images[:1]) == plan.multiplies < plan.multiplies_dense
    with torch.no_grad():
        wanted = small(images[:2])
        cpnb.save_factored(small, tmp_path / "small.safetensors")
        back = cpnb.load_factored(network(name)[0], tmp_path / "small.safetensors")
        assert torch.equal(back(images[:2]), wanted)
        fast = cpnb.optimize_for_inference(small, images[:2])
        assert_close(fast(images[:2]), wanted)
        exported = torch.export.export(small, (images[:2],))
        assert_close(exported.module()(images[:2]), wanted)
    # A module and what was exported of it: both are ways that people go.
    source = small if name in ("cifar8", "squeezenet1_1") else exported
    assert_close(onnx_outputs(source, images[:2], tmp_path / "small.onnx"), wanted)


def onnx_outputs(source, x, path):
    torch.onnx.export(source, (x,), path, dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(np.asarray(found))


def assert_close(found, wanted):
    """Float32 sums in another order, through up to 121 layers."""
    scale = float(wanted.abs().max())
    torch.testing.assert_close(found, wanted, atol=1e-4 * scale, rtol=1e-3)
