"""A plan of ranks: within budget, spent where it matters, and a table that tells the truth."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import cpnb
from cpnb.inference.costs import Cost, random_factored
from cpnb.inference.plan import Plan, PlannedLayer
from cpnb.inference.shapes import factored_multiplies, input_sizes
from cpnb.training.divergence import Trial, divergence, sensitivities
from cpnb.training.layer_fit import refit


def small_net():
    """A strided, a grouped, a depthwise and a 1×1 layer, BatchNorm and a linear head."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=2), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(),
        nn.Conv2d(16, 24, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 10),
    ).eval()  # fmt: skip


def images(number=16, size=12):
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def planned():
    return cpnb.plan(small_net(), images(1), images(), multiplies=0.6, progress=False)


def test_a_plan_keeps_its_budget_and_tells_the_multiplies_that_come_out(planned):
    small = cpnb.compress(small_net(), planned, progress=False)
    assert cpnb.count_multiplies(small, images(1)) == planned.multiplies
    assert planned.multiplies <= 0.6 * planned.multiplies_dense
    assert planned.multiplies_dense == cpnb.count_multiplies(small_net(), images(1))


def test_a_plan_says_why_a_layer_stays_dense(planned):
    reasons = {name: layer.reason for name, layer in planned.layers.items()}
    assert reasons["0"] == "first layer" and reasons["7"] == "depthwise"
    told = str(planned)
    assert all(word in told for word in ("first layer", "depthwise", "fewer", "16×8×3×3"))
    assert planned.methods.get("13", "svd") == "svd"


def test_ranks_may_be_edited(planned):
    found = planned.within(0.6)
    name = next(iter(found.ranks))
    before = found.multiplies
    found.ranks[name] -= 1
    assert before - found.multiplies == pytest.approx(found.layers[name].multiplies.each, abs=1)
    assert planned.ranks[name] == found.ranks[name] + 1


def test_a_smaller_budget_costs_more(planned):
    tight, wide = planned.within(0.5), planned.within(0.8)
    assert tight.multiplies < wide.multiplies and tight.loss > wide.loss


def test_milliseconds_are_a_budget_too():
    """Two layers of 10 ms; of one, a rank takes 0.1 ms, of the other 0.2; 1 ms is elsewhere."""
    curve = {1: 0.5, 40: 0.1}
    layers = {
        name: PlannedLayer((8, 8, 3, 3), Cost(1000, 0, 10), Cost(10.0, 1.0, each), "nls", curve)
        for name, each in (("a", 0.1), ("b", 0.2))
    }
    plan = Plan({}, layers, {"multiplies": 0, "milliseconds": 1.0})
    found = plan.within(speedup=2.0)
    assert 10.3 < found.milliseconds <= 21 / 2 and found.ranks["a"] > found.ranks["b"]
    with pytest.raises(ValueError, match=r"speedup=10 cannot be met; the most is 6.3"):
        plan.within(speedup=10)


def test_milliseconds_are_those_of_the_layers_and_the_rest(planned):
    parts = [layer.milliseconds.dense for layer in planned.layers.values()]
    assert all(ms > 0 for ms in parts)
    whole = sum(parts) + planned.rest["milliseconds"]
    assert planned.milliseconds_dense == pytest.approx(whole)


def test_a_budget_that_cannot_be_met_says_what_can(planned):
    with pytest.raises(ValueError, match="multiplies=0.01 cannot be met; the least share is") as e:
        planned.within(0.01)
    share = float(str(e.value).split()[-1])
    assert planned.within(share).multiplies <= share * planned.multiplies_dense
    with pytest.raises(ValueError, match="cannot be met"):
        planned.within(share - 0.01)


@pytest.mark.parametrize(
    "budget, word",
    [({}, "give one budget"), ({"multiplies": 0.5, "speedup": 2}, "give one budget")]
    + [({"multiplies": x}, "share above 0 and below 1") for x in (0, 1, -0.5, 2, "half", True)]
    + [({"speedup": x}, "factor above 1") for x in (1, 0, -2, "2x", math.inf, math.nan)],
)
def test_a_budget_that_asks_for_nothing_is_refused(budget, word):
    with pytest.raises(ValueError, match=word):
        cpnb.plan(small_net(), images(1), **budget)


def test_bad_input_is_named_before_any_work():
    net, x = small_net(), images(1)
    with pytest.raises(ValueError, match="layers names nope; there are 0, 13"):
        cpnb.plan(net, x, multiplies=0.5, layers=["nope"])
    with pytest.raises(ValueError, match="data has no images"):
        cpnb.plan(net, x, torch.empty(0, 3, 12, 12), multiplies=0.5)
    with pytest.raises(TypeError, match="data must be a Dataset"):
        cpnb.plan(net, x, 512, multiplies=0.5)
    with pytest.raises(ValueError, match="cannot be run on the example of shape"):
        cpnb.plan(net, torch.randn(1, 4, 12, 12), multiplies=0.5)


def test_only_the_layers_asked_for_are_factored():
    found = cpnb.plan(small_net(), images(1), multiplies=0.9, layers=["5"], progress=False)
    assert list(found.ranks) == ["5"] and found.layers["3"].reason == "not asked for"


def test_a_layer_of_which_nothing_hangs_gets_the_lowest_rank():
    """Two like layers, of which the output all but ignores one."""
    torch.manual_seed(0)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.a, self.b = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            x = torch.relu(self.first(x))
            return 30 * self.head((self.a(x) + 1e-3 * self.b(x)).mean((2, 3)))

    found = cpnb.plan(Two().eval(), images(1), images(), multiplies=0.7, progress=False)
    rank = {name: found.ranks.get(name, 99) for name in "ab"}
    assert rank["b"] < rank["a"]
    assert found.layers["b"].sensitivity < 1e-3 * found.layers["a"].sensitivity


def test_sensitivities_are_those_of_one_layer_changed_at_a_time():
    """From one reading of the data, which a loader may draw anew at each."""
    net, data = small_net(), DataLoader(images(), batch_size=16, shuffle=True)
    before = copy.deepcopy(net.state_dict())
    trials = {
        name: Trial({name: cpnb.decompose(net, {name: 3}).get_submodule(name)}, 0.5)
        for name in ("3", "5")
    }
    found = sensitivities(net, trials, data)
    for name, trial in trials.items():
        changed = copy.deepcopy(net)
        changed.set_submodule(name, trial.parts[name])
        lost = divergence(changed, net, images())
        assert found[name] == pytest.approx(lost / trial.error**2, rel=1e-4)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_what_the_next_layer_makes_up_for_is_not_counted():
    net, data = small_net(), images(64)
    before = copy.deepcopy(net.state_dict())
    factored = cpnb.decompose(net, {"3": 3}).get_submodule("3")
    alone, helped = (Trial.of(net, "3", factored, 0.5, behind, data) for behind in ("", "5"))
    assert list(alone.parts) == ["3"] and list(helped.parts) == ["3", "5"]
    found = [sensitivities(net, {"3": trial}, data)["3"] for trial in (alone, helped)]
    assert found[1] < 0.8 * found[0]
    want = copy.deepcopy(net)
    want.set_submodule("3", factored)
    assert refit(want, net, "5", data)
    torch.testing.assert_close(helped.parts["5"].state_dict(), want[5].state_dict())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_layer_behind_of_which_one_image_tells_nothing_stays():
    """Such as one that sees the means of maps (squeeze and excitation)."""
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 5),
    ).eval()  # fmt: skip
    found = cpnb.plan(net, images(1), images(1), multiplies=0.5, progress=False)
    small = cpnb.compress(net, found, images(1), progress=False)
    assert list(found.ranks) == ["1"] and torch.equal(small[5].weight, net[5].weight)


def test_a_large_layer_behind_is_not_refitted():
    net = nn.Sequential(nn.Conv2d(3, 112, 3), nn.Conv2d(112, 4, 3))
    factored = cpnb.decompose(net, {"0": 2}, n_iter_max=1)[0]
    assert list(Trial.of(net, "0", factored, 0.5, "1", images(4)).parts) == ["0"]


@pytest.mark.parametrize("index, method", [(3, "nls"), (5, "nls"), (9, "jaderberg"), (13, "svd")])
def test_multiplies_of_a_rank_are_those_of_the_layer_it_makes(index, method):
    net, x, name = small_net(), images(2), str(index)
    quick = {"n_iter_max": 2} if method == "nls" else {}
    small = cpnb.decompose(net, {name: 3}, method, **quick)
    parts = {
        k: v for k, v in cpnb.multiplies_per_layer(small, x).items() if k.split(".")[0] == name
    }
    size = input_sizes(net, x)[name]
    assert factored_multiplies(net[index], size, 3) == sum(parts.values())
    stand_in, factored = random_factored(net[index], 3), small[index]
    shapes = [[tuple(p.shape) for p in m.parameters()] for m in (stand_in, factored)]
    assert shapes[0] == shapes[1] and stand_in(torch.randn(size.shape)).isfinite().all()
