"""The roofline: what stages move, and what the machine allows."""

import numpy as np
import torch
from torch import nn

from cpnb.inference.roofline import Rates, machine_rates, time_stages
from cpnb.study import figures


def test_roof_is_the_lower_of_the_two_limits():
    rates = Rates(gflops=100.0, gbytes=10.0)
    np.testing.assert_allclose(rates.roof(np.array([1.0, 10.0, 50.0])), [10.0, 100.0, 100.0])


def test_machine_rates_are_rates():
    rates = machine_rates(size=64, repeats=3)
    assert 0 < rates.gflops < np.inf and 0 < rates.gbytes < np.inf


def test_stages_count_the_batch_and_leave_the_model_alone():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.ReLU())
    model[0].train()
    rows = time_stages(model, torch.randn(5, 2, 6, 6), seconds=0.01)
    assert [row["stage"] for row in rows] == ["0", "1"]
    assert rows[0]["multiplies"] == 5 * 4 * 4 * 4 * 2 * 9
    assert rows[0]["bytes"] == 4 * (5 * 2 * 36 + 4 * 2 * 9 + 5 * 4 * 16)
    assert rows[1]["multiplies"] == 0 and rows[1]["bytes"] == 2 * 4 * 5 * 4 * 16
    assert all(row["ms"] > 0 for row in rows)
    assert model[0].weight.is_contiguous() and not model[0]._forward_hooks


def test_figure_places_each_stage_by_its_intensity_and_rate():
    row = {"stage": "conv", "ms": 1.0, "multiplies": 5 * 10**6, "bytes": 10**6}
    idle = {"stage": "relu", "ms": 1.0, "multiplies": 0, "bytes": 10**6}
    fig = figures.roofline({"net": [row, idle]}, Rates(100.0, 10.0))
    (points, _) = fig.axes[0].lines
    np.testing.assert_allclose(points.get_xydata(), [[10.0, 10.0]])
    assert fig.axes[0].get_xlabel() and fig.axes[0].get_ylabel()
