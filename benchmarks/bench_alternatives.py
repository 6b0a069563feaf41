"""What else one could do with the same net: int8, bfloat16, pruning, Tucker-2, a smaller net.

    pip install -e .[bench] nncf torch-pruning
    CPNB_DATA=... python benchmarks/bench_alternatives.py --weights resnet20.safetensors

One ResNet on CIFAR-10, every contender in the runtime that is fastest for it, timed in turns in one
run; accuracy on the 10,000 test images is that of the very net that was timed. Nothing is trained:
CP and int8 see 512 images without labels, Tucker-2 none; the pruned net gets its BatchNorm
statistics estimated anew on them, for without that it guesses. Where the processor has no
instructions for int8, which add 8-bit products in 32 bits, weights take half of their range, as
both tools advise: in 16 bits the sums would be cut off.
"""

import argparse
import copy
import platform
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from runtimes import contenders, summary, time_in_turns

import cpnb

BATCH = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--weights")
    parser.add_argument("--smaller", help="weights of a ResNet-20 beside a larger one")
    parser.add_argument("--factors", type=float, nargs="+", default=[1.9, 3.7])
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    net = cpnb.load_cifar_resnet(options.depth, options.weights)
    train, test = (cpnb.load_dataset("cifar10", split) for split in ("train", "test"))
    generator = torch.Generator().manual_seed(0)
    images = train.images[torch.randperm(len(train), generator=generator)[:512]]
    example = test.images[:BATCH].contiguous()

    plan = cpnb.plan(net, example, images, multiplies=0.9)
    for factor in options.factors:
        compare(net, plan.within(1 / factor), images, test, factor, options)


def compare(net, plan, images, test, factor, options):
    """All contenders at one number of multiplies, in one run."""
    example = test.images[:BATCH].contiguous()
    small = cpnb.compress(net, plan, torch.cat([images, images.flip(3)]))
    nets = {
        "dense": (net, "–"),
        "CP by the plan": (small, "512 images"),
        "Tucker-2, same multiplies": (tucker(net, plan), "nothing"),
        "channels pruned, same multiplies": (pruned(net, images, plan), "512 images"),
    }
    if options.smaller:
        nets["ResNet-20"] = (cpnb.load_cifar_resnet(20, options.smaller), "its own training")
    functions, facts = {}, {}
    for name, (model, needs) in nets.items():
        found = contenders(model, example, torch.get_num_threads(), with_compile=True)
        functions |= {(name, runtime): f for runtime, f in found.items()}
        facts[name] = {
            "accuracy": cpnb.accuracy(model, test),
            "multiplies": cpnb.count_multiplies(model, example),
            "labels": needs,
        }
    fast = cpnb.optimize_for_inference(small, example)
    functions["CP by the plan", "cpnb"] = lambda: fast(example)
    for name, label in (("dense", "int8"), ("CP by the plan", "CP, then int8")):
        for runtime, quantise in (("OpenVINO", int8), ("ONNX Runtime", int8_onnx)):
            infer = quantise(nets[name][0], images, example)
            about = {"labels": "512 images", "accuracy": scored(infer, test)}
            functions[f"{label} ({runtime})", runtime] = lambda infer=infer: infer(example.numpy())
            facts[f"{label} ({runtime})"] = facts[name] | about
    half = runner(openvino_model(net, example, "bf16"))
    functions["bfloat16", "OpenVINO"] = lambda: half(example.numpy())
    facts["bfloat16"] = facts["dense"] | {"labels": "nothing", "accuracy": scored(half, test)}
    for row in rows_of(functions, facts, options.seconds):
        print({key: value for key, value in row.items() if key != "latencies"}, flush=True)
        cpnb.record(
            "alternatives", **row, net=f"resnet{options.depth}", batch=BATCH, dataset="cifar10",
            test_size=len(test), factor=factor, method=row["name"],
            parameters={"seconds": options.seconds, "halved": saturates()},
        )  # fmt: skip


def rows_of(functions, facts, seconds):
    """A row a net, in its fastest runtime; the dense net's fastest is the denominator of all."""
    times = {key: summary(t) for key, t in time_in_turns(functions, seconds).items()}
    best = {}
    for (name, runtime), latency in times.items():
        if name not in best or latency["median_ms"] < best[name][1]["median_ms"]:
            best[name] = runtime, latency
    dense = best["dense"][1]["median_ms"]
    for name, (runtime, latency) in best.items():
        yield {
            "name": name, "runtime": runtime, "ms": latency["median_ms"],
            "iqr_ms": latency["iqr_ms"], "speedup": dense / latency["median_ms"], **facts[name],
            "latencies": {r: t["median_ms"] for (n, r), t in times.items() if n == name},
        }  # fmt: skip


def tucker(net, plan):
    """Each layer of the plan by Tucker-2 at the most equal ranks that take no more multiplies."""
    small = net
    for name, rank in plan.ranks.items():
        conv = net.get_submodule(name)
        if not isinstance(conv, torch.nn.Conv2d) or conv.kernel_size == (1, 1):
            continue
        budget = rank * (conv.in_channels + conv.out_channels + sum(conv.kernel_size))
        area = conv.kernel_size[0] * conv.kernel_size[1]
        most = min(conv.in_channels, conv.out_channels)
        fits = [
            r for r in range(1, most + 1)
            if r * (conv.in_channels + conv.out_channels) + area * r * r <= budget
        ]  # fmt: skip
        small = cpnb.decompose(small, {name: (fits[-1], fits[-1])}, "tucker")
    return small


def pruned(net, images, plan):
    """Whole channels removed by Torch-Pruning, by norm, until as few multiplies are left."""
    import torch_pruning

    for ratio in np.linspace(0.02, 0.9, 45):
        model, example = copy.deepcopy(net), images[:1]
        pruner = torch_pruning.pruner.MagnitudePruner(
            model, example, importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=float(ratio), ignored_layers=[model.linear, model.conv1],
        )  # fmt: skip
        pruner.step()
        try:
            if cpnb.count_multiplies(model, example) <= plan.multiplies:
                break
        except RuntimeError:  # a shortcut's padding no longer fits
            continue
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        for batch in images.split(64):
            model.train()(batch)
    return model.eval()


def openvino_model(model, example, precision="f32"):
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    with tempfile.TemporaryDirectory() as folder:
        read = exported(model, example, folder)
        return openvino.Core().compile_model(read, "CPU", settings)


def exported(model, example, folder):
    import openvino

    path = Path(folder) / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (example,), path, dynamo=True, verbose=False)
    return openvino.Core().read_model(path)


def saturates() -> bool:
    """Whether this processor adds products of 8 bits in 16, where sums are cut off: no VNNI."""
    return platform.machine() == "x86_64" and "vnni" not in Path("/proc/cpuinfo").read_text()


def int8(model, images, example):
    """Quantised after training: NNCF's default for CPUs, calibrated on the images."""
    import nncf
    import openvino
    from nncf.quantization import advanced_parameters as advanced

    with tempfile.TemporaryDirectory() as folder:
        read = exported(model, example, folder)
        data = nncf.Dataset(list(images.split(BATCH)), lambda batch: batch.numpy())
        halved = advanced.AdvancedQuantizationParameters(overflow_fix=advanced.OverflowFix.ENABLE)
        quantised = nncf.quantize(
            read, data, subset_size=len(images) // BATCH,
            advanced_parameters=halved if saturates() else None,
        )  # fmt: skip
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        return runner(openvino.Core().compile_model(quantised, "CPU", settings))


def int8_onnx(model, images, example):
    """Quantised by ONNX Runtime: signed int8, ranges by the largest value, weights by channel."""
    import onnxruntime
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        left = [{"input": batch.numpy()} for batch in images.split(BATCH)]

        def get_next(self):
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(
            model, (example,), path, dynamo=True, verbose=False, input_names=["input"]
        )
        quantization.quant_pre_process(path, path)
        quantization.quantize_static(
            path, path, Images(), per_channel=True, reduce_range=saturates()
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"input": batch})[0]


def runner(compiled):
    """A function of a batch of the compiled size."""
    request = compiled.create_infer_request()
    return lambda batch: next(iter(request.infer([batch], share_inputs=True).values()))


def scored(infer, test) -> float:
    """Accuracy of a net that takes a fixed batch; the few images left over are padded."""
    hits = 0
    for start in range(0, len(test), BATCH):
        batch, labels = test.images[start : start + BATCH], test.labels[start : start + BATCH]
        full = torch.cat([batch, batch.new_zeros(BATCH - len(batch), *batch.shape[1:])])
        output = infer(full.numpy())
        hits += int((torch.from_numpy(output[: len(batch)]).argmax(1) == labels).sum())
    return hits / len(test)


if __name__ == "__main__":
    main()
