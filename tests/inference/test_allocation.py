"""A budget shared out: never over it, the best there is where the answer is known."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpnb.inference.allocation import Option, allocate


def layer(*pairs):
    return [Option(i, cost, loss) for i, (cost, loss) in enumerate(pairs)]


def totals(chosen):
    return sum(o.cost for o in chosen.values()), sum(o.loss for o in chosen.values())


def test_all_stay_at_their_best_where_the_budget_allows_it():
    options = {"a": layer((10, 0), (4, 1)), "b": layer((20, 0), (5, 3))}
    assert totals(allocate(options, 30)) == (30, 0)


def test_the_layer_that_loses_least_for_its_cost_goes_first():
    options = {"a": layer((10, 0), (4, 1)), "b": layer((10, 0), (4, 0.1))}
    chosen = allocate(options, 14)
    assert (chosen["a"].rank, chosen["b"].rank) == (0, 1)


def test_what_the_price_leaves_over_is_spent():
    """The middle options lie above the straight line, where no price finds them."""
    options = {"a": layer((10, 0), (6, 0.9), (1, 1)), "b": layer((10, 0), (6, 0.9), (1, 1))}
    assert totals(allocate(options, 17)) == (16, 0.9)


def test_a_budget_that_cannot_be_met_says_what_can():
    with pytest.raises(ValueError, match="budget of 4 cannot be met; the least is 9"):
        allocate({"a": layer((10, 0), (4, 1)), "b": layer((5, 0))}, 4)


convex = st.lists(st.floats(0.01, 1), min_size=1, max_size=4).map(
    lambda steps: layer(
        *[(5 - i, sum(sorted(steps)[:i])) for i in range(len(steps) + 1)]
    )  # dearer steps later: each option lies on the lower hull
)


@given(st.lists(convex, min_size=1, max_size=3), st.integers(3, 15))
def test_convex_curves_with_equal_steps_get_the_best_of_all_choices(curves, budget):
    options = dict(enumerate(curves))
    choices = [c for c in itertools.product(*curves) if sum(o.cost for o in c) <= budget]
    if not choices:
        with pytest.raises(ValueError, match="cannot be met"):
            allocate(options, budget)
        return
    cost, loss = totals(allocate(options, budget))
    best = min(sum(o.loss for o in c) for c in choices)
    assert cost <= budget and loss == pytest.approx(best, abs=1e-9)  # sums in another order
