"""The comparison of the rivals: like multiply counts, a tiny run of each part, and its resuming."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

import cpnb

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import denton  # noqa: E402
import rivals  # noqa: E402

TINY = [
    "--dataset", "characters", "--train-size", "128", "--test-size", "72", "--epochs", "1",
    "--ranks", "4", "--more-ranks", "--factors", "--seeds", "0", "--n-iter-max", "2",
    "--seconds", "0.01",
]  # fmt: skip


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("CPNB_RESULTS", str(tmp_path))


def rows(claim):
    return cpnb.recorded(cpnb.results_path(), claim=claim)


@pytest.mark.parametrize("method", rivals.METHODS)
def test_ranks_come_near_to_the_multiplies_of_cp(method):
    net, example = cpnb.load_charnet(), torch.zeros(1, 1, 24, 24)
    options = Namespace(ranks=[64], more_ranks=[96], factors=[5.0])
    for ranks in rivals.points(net, method, options):
        small = rivals.with_random_factors(net, method, ranks)
        counts = cpnb.multiplies_per_layer(small, example)
        for name, rank in ranks.items():
            conv = net.get_submodule(name)
            told = rivals.multiplies(conv, name, method, rank)
            assert told == sum(v for part, v in counts.items() if part.startswith(name))
    # The last point is that of R = 64.
    cp = rivals.multiplies(net.conv2, "conv2", "nls", 64)
    assert rivals.multiplies(net.conv2, "conv2", method, ranks["conv2"]) == pytest.approx(
        cp, rel=0.05
    )


def test_accuracy_is_recorded_once_for_each_method_rank_and_seed(capsys):
    methods = ["--methods", "nls", "jaderberg-2"]
    rivals.main(["accuracy", *methods, *TINY])
    found = rows("charnet-rivals")
    assert [row["method"] for row in found] == ["nls", "jaderberg-2"]
    assert found[0]["ranks"] == [4, 4] and found[0]["degeneracy"][0] <= 10.001
    net, example = cpnb.load_charnet(), torch.zeros(1, 1, 24, 24)
    unseen = cpnb.accuracy(net, cpnb.load_dataset("characters", "validation", size=72))
    for row in found:
        assert row["accuracy_baseline_validation"] == unseen != row["accuracy_baseline"]
        assert row["bound"] == pytest.approx(
            cpnb.count_multiplies(net, example) / row["multiplies"]
        )
        assert 0 <= row["accuracy_finetuned"] <= 1 and len(row["rel_error"]) == 2
        assert row["validation_size"] == 72 and 0 < row["accuracy_finetuned_validation"] <= 1
    rivals.main(["accuracy", *methods, *TINY])
    assert len(rows("charnet-rivals")) == 2
    rivals.main(["accuracy", *methods, *TINY, "--seeds", "0", "1"])
    assert [row["seed"] for row in rows("charnet-rivals")] == [0, 0, 1, 1]


def test_latency_is_recorded_and_says_what_was_fused(capsys):
    methods = ["nls", "biclustering", "tucker"]  # greedy deflation's architecture is NLS's
    rivals.main(["latency", "--methods", "greedy", *methods, "--repeats", "2", *TINY])
    found = rows("charnet-rivals-latency")
    assert [(row["method"], row["repeat"]) for row in found] == [
        (method, repeat) for repeat in range(2) for method in methods
    ]
    assert [row["fused"] for row in found] == 2 * [True, False, True]
    dense = {row["repeat"]: row["latencies"]["dense"] for row in found}
    assert all(row["latencies"]["dense"] == dense[row["repeat"]] for row in found)
    for row in found:
        ms = {name: value["median_ms"] for name, value in row["latencies"].items()}
        assert row["speedup"] == pytest.approx(ms["dense"] / ms["factored"])
        fastest = min(ms["optimised"], ms["factored"])
        assert row["speedup_optimised"] == pytest.approx(ms["dense"] / fastest)
        assert any(names.startswith("conv1") for names in row["chosen"])


def test_random_factors_have_the_shapes_of_the_method(monkeypatch):
    monkeypatch.setattr(rivals, "METRIC", dict.fromkeys(rivals.LAYERS, "plain"))
    net, options = cpnb.load_charnet(), Namespace(n_iter_max=1, dataset="characters")
    for method, ranks in {"biclustering": {"conv2": 2}, "jaderberg-1": {"conv2": 1}}.items():
        fitted = rivals.decomposed(net, method, ranks, 0, options)
        quick = rivals.with_random_factors(net, method, ranks)
        shapes = [[p.shape for p in model.parameters()] for model in (fitted, quick)]
        assert shapes[0] == shapes[1]


def test_rates_and_clusters_are_chosen_on_the_validation_split(monkeypatch, capsys):
    monkeypatch.setattr(rivals, "LAYERS", ("conv2",))
    monkeypatch.setattr(rivals, "CHOICES", ((2, 1),))
    monkeypatch.setattr(rivals, "CHOSEN_AT", 300.0)
    monkeypatch.setattr(rivals, "RATES", (0.01,))
    rivals.main(["choose", "--methods", "biclustering", *TINY])
    rate, *clusters = rows("charnet-rivals-choice")
    assert rate["lr"] == 0.01 and rate["test_size"] == 72
    assert {row["metric"] for row in clusters} == {"plain", "covariance", "gradient"}
    assert all(row["factor"] > 100 for row in clusters)


def test_dentons_layers_are_counted_and_timed(capsys):
    denton.main(["--batch", "1", "--seconds", "0.01"])
    conv1, conv2, linear = rows("rivals-counts")
    # C′=6 colours of 3 at 227 × 227 and 96 grey filters of 11 × 11 at 55 × 55.
    factored = 3 * 6 * 227**2 + 96 * 121 * 55**2
    assert conv1["multiplies"] == {"dense": 96 * 363 * 55**2, "factored": factored}
    # G H K (S/G + d² + T/H) a position.
    assert conv2["bound"] == pytest.approx(96 * 256 * 25 / (48 * 2 * 6 * (2 + 25 + 128)))
    assert linear["factors"][1] == pytest.approx(4096 / (2 * 350))
