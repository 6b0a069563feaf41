"""Recorded tables and figures of AlexNet and SqueezeNet: which rows count, and how they read."""

import matplotlib.pyplot as plt
import pytest

import cpnb
from cpnb.study import figures, tables
from cpnb.study.figures import alexnet as drawn

MACHINE = {
    "cpu": "Some CPU", "simd": "AVX2", "gpu": None, "device": "cpu", "threads": 2, "commit": "new",
    "versions": {"torch": "2.15.0"},
}  # fmt: skip
TABLES = {
    "alexnet_kernels": "alexnet.py kernel", "alexnet_latencies": "alexnet.py latency",
    "alexnet_runtimes": "make bench-inference", "alexnet_rates": "alexnet.py tune",
    "alexnet_finetuning": "alexnet.py finetune", "squeezenet": "squeezenet.py",
}  # fmt: skip
FIGURES = ("alexnet_kernels", "alexnet_speedups", "squeezenet")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def lines(table) -> list[list[str]]:
    return table.data.values.tolist()


def column(table, heading: str) -> list[str]:
    return table.data[heading].tolist()


@pytest.mark.parametrize("name", TABLES)
def test_an_empty_table_tells_the_command(name):
    table = getattr(tables, name)([])
    assert "nothing recorded yet" in str(table) and TABLES[name] in str(table)


@pytest.mark.parametrize("name", TABLES)
def test_the_committed_records_read_as_a_narrow_table(name):
    table = getattr(tables, name)()
    assert 3 <= len(table.data.columns) <= 8 and len(table.data) > 1
    assert not any("_" in heading for heading in table.data.columns)
    assert "torch" in table.caption and "AMD EPYC" in table.caption
    shown = "\n".join(map(str, lines(table)))
    assert "None" not in shown and "nan" not in shown


@pytest.mark.parametrize("name", FIGURES)
def test_figures_draw_the_committed_records_and_say_where_there_are_none(name):
    axes = getattr(figures, name)().axes
    assert all(ax.get_xlabel() for ax in axes)
    (ax,) = getattr(figures, name)([]).axes
    assert "nothing recorded yet" in ax.texts[0].get_text()


def kernel(method="nls", rank=140, seed=0, error=0.5, **values):
    row = {
        "claim": "alexnet-conv2", "method": method, "rank": rank, "rank_per_group": rank,
        "seed": seed, "block_diagonal": False, "n_iter_max": 50, "rel_error": error,
        "degeneracy": 10.0, "seconds": 2.0, "bound": 5.8986,
    }  # fmt: skip
    return MACHINE | row | values


def test_seeds_of_a_fit_stand_together_and_older_code_is_left_out():
    old = kernel(seed=2, error=0.9, commit="old")
    del old["rank_per_group"]  # as in the first rows; R is the rank there
    rows = [old, kernel(error=0.3), kernel(error=0.52), kernel(seed=1, error=0.58)]
    rows += [kernel("greedy", error=0.6), kernel("als", rank=100), kernel(n_iter_max=5, rank=9)]
    rows += [kernel(rank=143, rank_per_group=140, block_diagonal=True, bound=5.93)]
    table = tables.alexnet_kernels(rows)
    assert lines(table) == [
        ["100", "ALS", "0.5000", "10.0", "2.0", "5.90×", "1"],
        ["140", "NLS, bounded (≤ 10)", "0.5500 (0.5200 to 0.5800)", "10.0", "2.0", "5.90×", "2"],
        ["140", "greedy, term by term", "0.6000", "10.0", "2.0", "5.90×", "1"],
        ["140", "NLS, bounded (≤ 10), block-diagonal", "0.5000", "10.0", "2.0", "5.93×", "1"],
    ]
    assert table.caption.startswith("50 steps or sweeps; mean and range of the seeds")
    left, right = drawn.alexnet_kernels(rows).axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in left.get_lines()}
    assert curves["NLS, bounded (≤ 10)"] == [[140, pytest.approx(0.55)]]
    assert "degeneracy" in right.get_ylabel() and right.get_yscale() == "log"


def latency(batch=1, rank=140, speedup=2.5, **values):
    row = {
        "claim": "alexnet-latency", "batch": batch, "rank": rank, "bound": 5.8986,
        "speedup": speedup, "speedup_optimised": 4.4, "latencies": {"dense": {"median_ms": 3.22}},
    }  # fmt: skip
    return MACHINE | row | values


def test_the_machine_stands_above_the_latencies_or_beside_them():
    rows = [latency(speedup=1.0, commit="old"), latency(32), latency(), latency(speedup=3.0)]
    table = tables.alexnet_latencies(rows)
    assert lines(table) == [
        ["1", "140", "3.2", "2.75× (2.50× to 3.00×)", "4.40×", "5.90×", "2"],
        ["32", "140", "3.2", "2.50×", "4.40×", "5.90×", "1"],
    ]
    assert table.caption == "Some CPU (AVX2), 2 threads; torch 2.15.0"
    (ax,) = figures.alexnet_speedups(rows).axes
    assert ax.get_ylabel() == "speed-up of conv2 over dense\nin PyTorch (×), batch of 32"
    other = tables.alexnet_latencies([*rows, latency(simd="AVX512")])
    assert column(other, "on") == [
        "Some CPU (AVX2), 2 threads", "Some CPU (AVX512), 2 threads", "Some CPU (AVX2), 2 threads",
    ]  # fmt: skip


def runtimes(case, **values):
    row = {
        "claim": "inference", "case": case, "bound": 4.13, "speedup": 3.4, "speedup_of_peers": 2.2,
        "share_of_bound": 0.83, "fastest": {"dense": "ONNX Runtime"}, "input": [32, 48, 27, 27],
        "latencies": {"dense, ONNX Runtime": {"median_ms": 12.9}}, "ranks": {"0": 200},
        "utc": "2026-11-26T11:45:00+00:00",
    }  # fmt: skip
    return MACHINE | row | values


def test_of_the_runtimes_only_conv2_is_told():
    case = "AlexNet conv2, R=200, batch 32"
    rows = [runtimes("CharNet, 64 patches"), runtimes(case), runtimes(case, threads=1)]
    (line,) = lines(tables.alexnet_runtimes(rows))
    assert line[0] == case and "3.4×" in line


def finetuned(seed=0, accuracy=0.80, **values):
    row = {
        "claim": "alexnet-finetune", "method": "nls", "rank": 200, "seed": seed, "lr": 0.001,
        "epochs": 2, "test_size": 10000, "rel_error": 0.5045, "accuracy_baseline": 0.8019,
        "accuracy_decomposed": 0.7981, "accuracy_finetuned": accuracy, "lr_chosen_on": "validation",
    }  # fmt: skip
    return MACHINE | row | values


def test_fine_tuning_tells_the_seeds_and_whose_images_chose_the_rate():
    older = finetuned(accuracy=0.7, rank=140, lr=0.02)
    del older["lr_chosen_on"]
    rows = [older, finetuned(2, commit="old"), finetuned(0, 0.8026), finetuned(1, 0.8004)]
    table = tables.alexnet_finetuning(rows)
    assert column(table, "learning rate, and the images it was chosen on") == [
        "0.02, test",
        "0.001, validation",
    ]
    assert column(table, "drop (points)") == ["10.19", "0.04 (-0.07 to 0.15)"]
    assert column(table, "fine-tuned") == ["70.00%", "80.15% (80.04% to 80.26%)"]
    assert column(table, "seeds") == ["1", "2"] and "10,000 test images" in table.caption


def test_each_learning_rate_that_was_tried_is_told():
    row = MACHINE | {
        "claim": "alexnet-tune", "method": "nls", "rank": 200, "seed": 0, "epochs": 1, "lr": 0.004,
        "accuracy_baseline_validation": 0.8138, "accuracy_validation": 0.8124,
        "validation_size": 5000,
    }  # fmt: skip
    table = tables.alexnet_rates([row, row | {"lr": 0.001}])
    assert column(table, "learning rate") == ["0.004", "0.001"]
    assert lines(table)[0] == ["200", "0.004", "1", "81.38%", "81.24%", "1"]
    assert table.caption.startswith("5,000 validation images")


def squeezed(method, top5, **values):
    row = {
        "claim": "squeezenet", "method": method, "top1": 0.5, "top1_dense": 0.59, "top5": top5,
        "top5_dense": 0.84, "multiplies": 255084584, "seconds": 36.1, "test_size": 488,
    }  # fmt: skip
    return MACHINE | row | values


def test_squeezenet_is_sorted_by_what_it_loses():
    rows = [squeezed("greedy", 0.2, commit="old"), squeezed("nls", 0.79), squeezed("greedy", 0.54)]
    rows.append(squeezed("dense", 0.84))
    table = tables.squeezenet(rows)
    assert column(table, "method") == ["dense", "NLS, kernel alone", "greedy, term by term"]
    assert column(table, "drop, top-5 (points)") == ["0.0", "5.0", "30.0"]
    assert lines(table)[1] == ["NLS, kernel alone", "50.0%", "79.0%", "9.0", "5.0", "255", "36"]
    (ax,) = figures.squeezenet(rows).axes
    assert [text.get_text() for text in ax.get_yticklabels()] == column(table, "method")[:0:-1]


def test_what_is_a_parameter_now_was_a_column_before(tmp_path, monkeypatch):
    """A row of either kind reads the same."""
    monkeypatch.setenv("CPNB_RESULTS", str(tmp_path))
    row = {k: v for k, v in kernel().items() if k not in ("commit", "versions")}
    cpnb.record(**row, parameters={})
    moved = {key: row.pop(key) for key in ("seed", "n_iter_max")}
    cpnb.record(**row, parameters=moved | {"method": "als", "ranks": [16]})
    old, new = (tables.alexnet_kernels([row]) for row in cpnb.recorded(cpnb.results_path()))
    assert str(old) == str(new)
