"""The benchmark of AlexNet's conv2: its rows, its resumption, and whose images choose the rate."""

import sys
from pathlib import Path

import pytest
import torch

import cpnb

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import alexnet  # noqa: E402


@pytest.fixture(autouse=True)
def records(tmp_path, monkeypatch):
    monkeypatch.setenv("CPNB_RESULTS", str(tmp_path))
    return lambda **wanted: cpnb.recorded(cpnb.results_path(), **wanted)


KERNEL = ["kernel", "--ranks", "3", "--methods", "nls", "greedy", "--n-iter-max", "2"]


def test_what_is_on_record_is_not_run_again(records, monkeypatch):
    alexnet.main(KERNEL)
    rows = records(claim="alexnet-conv2")
    assert [row["method"] for row in rows] == ["nls", "greedy"]
    # Multiplies a position, per group: 48·128·25 over R (48 + 2·5 + 128).
    assert rows[0]["bound"] == pytest.approx(48 * 128 * 25 / (3 * (48 + 10 + 128)))
    assert rows[0]["multiplies_dense"] == 223_948_800
    monkeypatch.setattr(cpnb.CPConv2d, "from_conv", None)
    alexnet.main(KERNEL)
    assert records(claim="alexnet-conv2") == rows


def test_the_block_diagonal_tensor_gets_the_rank_that_costs_no_more(records):
    alexnet.main([*KERNEL[:4], "nls", "--n-iter-max", "2", "--block-diagonal"])
    alexnet.main([*KERNEL[:4], "nls", "--n-iter-max", "2"])
    whole, parts = records(claim="alexnet-conv2")
    assert whole["block_diagonal"] and whole["rank_per_group"] == parts["rank_per_group"] == 3
    assert whole["multiplies"] <= parts["multiplies"]


def test_latency(records):
    alexnet.main(["latency", "--ranks", "8", "--batches", "1", "--seconds", "0.01"])
    (row,) = records(claim="alexnet-latency")
    assert set(row["latencies"]) == {"dense", "factored", "optimised"} == set(row["layouts"])
    dense, fast = (row["latencies"][name]["median_ms"] for name in ("dense", "optimised"))
    assert row["speedup_optimised"] == pytest.approx(dense / fast)
    assert row["input"] == [1, 96, 27, 27]


def test_the_learning_rate_is_chosen_on_validation_images(records, monkeypatch):
    seen = []

    def load(name, split, size=None):
        seen.append(split)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(20, 3, 32, 32, generator=generator)
        return cpnb.ImageDataset(images, torch.arange(20) % 10, range(10))

    monkeypatch.setattr(alexnet.cpnb, "load_dataset", load)
    alexnet.cifar10.cache_clear()
    small = ["--ranks", "2", "--n-iter-max", "1", "--epochs", "1"]
    with pytest.raises(SystemExit, match="run `tune` first"):
        alexnet.main(["finetune", *small])
    alexnet.main(["tune", *small, "--lrs", "0.001", "1e-9"])
    assert "test" not in seen
    tried = {row["lr"]: row["accuracy_validation"] for row in records(claim="alexnet-tune")}
    for seed, accuracy in enumerate((0.9, 0.99)):  # better than a net at its first steps
        values = {"method": "nls", "lr": 0.002, "accuracy_validation": accuracy, "seed": seed}
        cpnb.record("alexnet-tune", **values)
    alexnet.main(["finetune", *small])
    (row,) = records(claim="alexnet-finetune")
    assert row["lr"] == 0.002 and row["lr_chosen_on"] == "validation"
    expected = {str(rate): accuracy for rate, accuracy in tried.items()}
    assert row["lrs_tried"] == expected | {"0.002": pytest.approx(0.945)}
    alexnet.cifar10.cache_clear()
