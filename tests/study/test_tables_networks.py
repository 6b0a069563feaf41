"""Tables and figures of whole networks, on rows made for the test."""

import matplotlib.pyplot as plt
import pytest

from cpnb.inference.costs import Cost
from cpnb.inference.plan import Plan, PlannedLayer
from cpnb.study import figures, tables

MACHINE = {
    "device": "cpu", "cpu": "Some CPU", "simd": "AVX2", "threads": 2, "gpu": None, "commit": "c",
    "versions": {"torch": "2.11"},
}  # fmt: skip


def row(claim, **columns):
    return MACHINE | {"claim": claim} | columns


def test_the_plan_stands_beside_one_rate_with_the_range_of_the_samples():
    rows = [
        row("compress", net="resnet20", factor=2.0, allocation=how, seed=seed, drop=drop,
            accuracy_dense=0.9, accuracy=0.9 - drop, seconds=30, test_size=10_000)
        for how, seed, drop in (("plan", 0, 0.01), ("plan", 1, 0.02), ("one rate", 0, 0.04))
    ]  # fmt: skip
    told = repr(tables.compressions(rows))
    assert "90.0% (89.4 to 90.6)" in told  # the 95% interval on 10,000 images
    assert "ResNet-20" in told and "1.50" in told and "(1.00 to 2.00)" in told and "4.00" in told
    assert "bench_compress" in repr(tables.compressions([]))
    assert "CharNet: drawn characters" in repr(tables.compressions([rows[0] | {"net": "charnet"}]))


def test_fine_tuned_nets_stand_beside_the_dense_one_with_the_range_of_the_samples():
    rows = [
        row("compress-finetune", net="resnet20", factor=factor, seed=seed, epochs=5, drop=drop,
            accuracy_dense=0.9, accuracy_compressed=0.9 - before, accuracy_finetuned=0.5,
            teacher=share is not None,
            test_size=10_000,
            parameters={"lr": 0.02, "share": share})
        for share in (None, 0.4)
        for factor, seed, before, drop in (
            (3.7, 0, 0.03, 0.004), (3.7, 1, 0.02, 0.002), (1.0, 0, 0.0, -0.01))
    ]  # fmt: skip
    told = repr(tables.tuned(rows))
    assert "95% intervals up to ±1.0 points" in told  # of 50%, the least sure of them
    assert told.count("40%") == told.count(" – ") == 2  # with a teacher, and without
    assert "-1.00" in told and "0.02" in told
    assert "2.50 (2.00 to 3.00)" in told and "0.30 (0.20 to 0.40)" in told


def test_the_time_that_a_plan_and_its_compression_take():
    told = repr(tables.compress_seconds([row("compress-seconds", net="resnet18", factor=2.4,
                images=128, seconds_plan=61.2, seconds_compress=75.9)]))  # fmt: skip
    assert "ResNet-18" in told and " 61 " in told and "76" in told and "128" in told
    assert "bench_compress" in repr(tables.compress_seconds([]))


def test_forms_stand_beside_cp_at_equal_multiplies():
    errors = {"CP": 0.2, "CP, three-way": 0.2, "Tucker-2": 0.4}
    rows = [row("forms", net="resnet20", layer="a", rate=2.0, errors={"CP": 0.9, "Tucker-2": 0.9})]
    rows += [row("forms", net="resnet20", layer="a", rate=2.0, errors=errors)]
    rows += [row("forms", net="resnet20", layer="b", rate=2.0, errors=errors | {"Tucker-2": 0.6})]
    (line,) = tables.forms(rows).data.to_dict("records")
    assert line["CP, relative error"] == "0.20" and line["layers"] == "2"
    assert line["Tucker-2"] == "6.50× (4.00× to 9.00×)"
    assert line["CP, three-way"] == "1.00×"
    assert "benchmarks/forms.py" in repr(tables.forms([]))


def test_alternatives_name_their_figures():
    other = row("alternatives", name="int8 (NNCF)", runtime="OpenVINO", accuracy=0.87, speedup=2.5,
                multiplies=40e6, test_size=400, ms=1.25, iqr_ms=0.5, labels="512 images", batch=64,
                factor=1.9, net="resnet20",
                latencies={"OpenVINO": 1.25, "ONNX Runtime": 3.5})  # fmt: skip
    larger = other | {"net": "resnet56", "commit": "newer"}
    dense = {"name": "dense", "multiplies": 40e6, "speedup": 1.0}
    pruned = other | {"name": "channels pruned, same multiplies", "multiplies": 16e6}
    elsewhere = other | {"simd": "AVX512", "commit": "newer", "speedup": 1.25}
    told = tables.alternatives([other, larger, elsewhere])
    assert list(told.data["net"]) == ["ResNet-20", "ResNet-20", "ResNet-56"]
    assert list(told.data["speed-up over the dense net"]) == ["2.5×", "1.2×", "2.5×"]
    assert "AVX512" in told.data["on"][1] and "AVX512" not in told.data["on"][0]
    told = repr(told)
    assert "PyTorch (no torch.compile on Some CPU (AVX2), Some CPU (AVX512)), ONNX Runtime" in told
    assert "accuracies: 95% intervals up to ±3.3 points" in told
    assert "int8 (NNCF)" in told and "2.5×" in told and "batches of 64" in told
    assert "1.25 ± 0.25" in told and "3.50" in told
    compiled = other | dense | {"latencies": {"torch.compile": 2.0}}
    assert "no torch.compile" not in repr(tables.alternatives([compiled, pruned]))
    told = tables.alternatives([other | dense, pruned]).data
    assert list(told["in its place"])[1] == "channels pruned, at most as many multiplies as CP"
    assert list(told["fewer multiplies"]) == ["–", "2.5×"], "its own, not what was asked for"


@pytest.mark.parametrize("column", ["kernel", "channels", "size"])
def test_layer_speeds_keep_the_newest_of_each_point(column):
    base = {"kernel": 3, "channels": 32, "size": 8, "batch": 1}
    rows = [row("layer-speedup", **base, speedup=1.0), row("layer-speedup", **base, speedup=2.0)]
    rows.append(row("layer-speedup", **base | {column: 7}, speedup=0.5))
    assert [r["speedup"] for r in tables.layer_speeds(rows)] == [2.0, 0.5]


def test_figures_name_their_axes():
    speeds = [
        {"kernel": k, "channels": c, "size": s, "speedup": k / 3 * s / 8}
        for k in (3, 9) for c in (32, 64) for s in (8, 28)
    ]  # fmt: skip
    fig = figures.when_it_pays(speeds)
    assert fig.axes[0].get_ylabel() == "size of the maps" and len(fig.axes) == 2
    assert {text.get_text() for text in fig.axes[0].texts} == {"1.0×", "3.5×"}
    layer = PlannedLayer((8, 8, 3, 3), Cost(1000, 0, 10), Cost(1, 0, 0.1), "nls", {5: 0.5, 20: 0.1})
    fig = figures.error_curves(Plan({}, {"conv2": layer}))
    assert "nats" in fig.axes[0].get_ylabel()
    assert fig.axes[0].get_legend_handles_labels()[1] == ["conv2"]
    plt.close("all")
