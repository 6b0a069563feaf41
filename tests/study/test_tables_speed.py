"""Tables of speed: the newest code's runs, their spread, and the machine they ran on."""

import pytest

from cpnb.inference.latency import Latency
from cpnb.study import tables

MACHINE = {
    "cpu": "Some CPU", "simd": "AVX2", "gpu": None, "device": "cpu", "threads": 2,
    "versions": {"torch": "2.15.0"},
}  # fmt: skip


def lines(table):
    return [dict(zip(table.data.columns, row, strict=True)) for row in table.data.to_numpy()]


def latency(ms):
    return {"median_ms": ms, "iqr_ms": 0.2, "runs": 9}


def whole_net(speedup, commit="new", **values):
    row = {
        "claim": "speedup", "what": "CharNet", "ranks": [64, 64], "input": [64, 1, 24, 24],
        "bound": 9.64, "speedup": speedup, "latency_dense": latency(31.2), "latency": latency(5.5),
        "layout_dense": "NCHW", "layout": "channels_last", "commit": commit,
    }  # fmt: skip
    return MACHINE | row | values


def optimised(speedup, commit="new", case="CharNet, 64 patches", **values):
    row = {
        "claim": "inference", "case": case, "commit": commit, "bound": 9.64, "speedup": speedup,
        "speedup_of_peers": speedup / 2, "share_of_bound": speedup / 9.64,
        "fastest": {"dense": "OpenVINO"}, "latencies": {"dense, OpenVINO": latency(11.0)},
        "utc": "2026-11-26T04:02:00+00:00",
    }  # fmt: skip
    return MACHINE | row | values


def test_whole_nets_are_told_by_the_newest_code_on_each_machine():
    gpu = {"device": "cuda", "gpu": "Some GPU"}
    rows = [whole_net(9.9, "old"), whole_net(5.0), whole_net(6.0), whole_net(2.0, "old", **gpu)]
    cpu, cuda = lines(tables.speedups(rows))
    assert cpu["speed-up over dense in PyTorch"] == "5.50× (5.00× to 6.00×)" and cpu["runs"] == "2"
    assert cpu["dense (ms)"] == "31.2 ± 0.1, NCHW" and cpu["input"] == "64 patches"
    assert cpu["on"] == "Some CPU (AVX2), 2 threads" and cuda["on"] == "Some GPU"


def test_machines_that_all_rows_share_stand_above_the_table():
    table = tables.speedups([whole_net(5.0), whole_net(9.8, input=[1, 1, 240, 320])])
    assert "on" not in table.data.columns and "Some CPU (AVX2), 2 threads" in table.caption
    assert [line["input"] for line in lines(table)] == ["64 patches", "image, 240×320"]


def test_optimised_nets_stand_beside_peers_with_their_spread():
    rows = [optimised(20.0, "old"), optimised(9.0), optimised(9.4), optimised(9.5)]
    rows += [optimised(7.0, threads=1), optimised(30.0, device="cuda", gpu="Some GPU", threads=8)]
    (line,) = lines(tables.inference(rows))
    assert line == {
        "net or layer, and input": "CharNet, 64 patches", "fastest dense (ms)": "11.0, OpenVINO",
        "fewer multiplies": "9.64×", "peers": "4.7×", "ours": "9.4× (9.0× to 9.5×)",
        "share": "98%", "recorded": "2026-11-26, 3 runs",
    }  # fmt: skip
    assert [x["ours"] for x in lines(tables.inference(rows, threads=1))] == ["7.0×"]
    assert [x["ours"] for x in lines(tables.inference(rows, device="cuda"))] == ["30.0×"]


def test_of_one_code_on_two_processors_each_has_its_line():
    rows = [optimised(3.0, "old", simd="AVX512"), optimised(9.0), optimised(10.0, simd="AVX512")]
    told = [(line["on"], line["ours"]) for line in lines(tables.inference(rows))]
    assert told == [
        ("AVX2", "9.0×"),
        ("AVX512", "10.0×"),
    ]


def test_a_net_s_rows_stand_together_by_their_multiplies():
    cases = [("A, R=20, batch 32", 4.0), ("B", 1.0), ("A, R=30, batch 1", 2.0),
             ("A, R=20, batch 1", 4.0)]  # fmt: skip
    rows = [optimised(5.0, case=case, bound=bound) for case, bound in cases]
    told = [line["net or layer, and input"] for line in lines(tables.inference(rows))]
    assert told == ["A, R=30, batch 1", "A, R=20, batch 1", "A, R=20, batch 32", "B"]


def test_processors_are_compared_by_the_newest_code_on_each():
    rows = [
        optimised(5.0, "older", simd=None), optimised(8.0, "old"), optimised(9.0), optimised(9.2),
        optimised(1.0, case="a case that was measured once"),
    ]  # fmt: skip
    newest, plain = lines(tables.processors(rows))
    assert newest["on"] == "Some CPU (AVX2), 2 threads" and newest["commit"] == "new"
    assert newest["ours"] == "9.1× (9.0× to 9.2×)" and newest["runs"] == "2"
    assert plain["ours"] == "5.0×" and plain["net or layer, and input"] == ""  # as above


@pytest.mark.parametrize("name", ["speedups", "inference", "processors"])
def test_without_rows_the_command_that_makes_them_is_told(name):
    ((told,),) = getattr(tables, name)([]).data.to_numpy()
    assert "nothing recorded yet" in told and ("-m cpnb sweep" in told or "make " in told)


@pytest.mark.parametrize("name", ["speedups", "inference", "processors"])
def test_the_committed_records_fill_a_narrow_table_without_raw_names(name):
    table = getattr(tables, name)()
    assert len(table.data) >= 4 and len(table.data.columns) <= 8
    assert not [h for h in table.data.columns if "_" in str(h)]
    assert max(sum(map(len, map(str, row))) for row in table.data.to_numpy()) <= 120


# What a page has just measured


def test_latencies_are_told_over_one_net_and_against_the_bound():
    found = {
        "dense": ("NCHW", Latency(10.0, 0.5, 9, 2, "cpu", "float32")),
        "factored": ("channels_last", Latency(2.5, 0.125, 9, 2, "cpu", "float32")),
    }
    dense, factored = lines(tables.latencies(found, "dense", 8.0))
    assert list(dense.values())[-2:] == ["1.0×", "–"]  # of no ratio
    assert list(factored.values()) == ["factored", "channels_last", "2.50", "0.12", "4.0×", "50%"]


def test_a_comparison_shows_both_latencies_with_their_scatter_and_layout():
    run = {
        "bound": 9.64, "speedup": 4.0, "input": [1, 1, 24, 24],
        "layout_dense": "NCHW", "layout": "channels_last",
        "latency_dense": Latency(10.0, 0.5, 9, 2, "cpu", "float32"),
        "latency": Latency(2.5, 0.125, 9, 2, "cpu", "float32"),
    }  # fmt: skip
    (line,) = lines(tables.compared({"cpu, 1 × 24×24": run}))
    assert list(line.values()) == [
        "cpu, 1 × 24×24", "9.64×", "4.00×", "10.0 ± 0.25, NCHW", "2.50 ± 0.062, channels_last",
    ]  # fmt: skip


def test_bounds_end_with_the_whole_net():
    first, _, whole = lines(tables.bounds({"a": 100, "b": 900}, {"a": 100, "b": 300}))
    assert list(first.values()) == ["a", "100", "100", "1.00×", "25%"]
    assert list(whole.values()) == ["whole net", "1,000", "400", "2.50×", "100%"]


def test_stages_are_told_by_shares_rates_and_traffic():
    parts = [
        {"stage": "conv1", "ms": 1.0, "multiplies": 3_000_000, "bytes": 1_000_000},
        {"stage": "maxout1", "ms": 3.0, "multiplies": 0, "bytes": 2_000_000},
    ]
    conv, maxout = lines(tables.stages({"dense": parts}))
    assert list(conv.values()) == ["dense", "conv1", "1.00", "25%", "100%", "6", "6.0", "1.0"]
    assert maxout["share of time"] == "75%" and maxout["GFLOP/s"] == "0"
