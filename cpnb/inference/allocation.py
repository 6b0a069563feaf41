"""A budget shared out among layers so that the expected loss is least.

Each layer offers options, a cost and a loss each, and one of them is to be taken: a multiple-choice
knapsack. For a price λ on cost every layer takes the option with the least loss + λ · cost by
itself, and the choice is the best there is at the cost that it has (Everett 1963, "Generalized
Lagrange multiplier method"; Shoham & Gersho 1988, "Efficient bit allocation for an arbitrary set of
quantizers"). λ is found by bisection; what it leaves of the budget is spent by single steps, those
with the most loss saved for their cost first.
"""

from __future__ import annotations

from typing import NamedTuple


class Option(NamedTuple):
    """One way to build a layer; ``rank`` is None for the dense one."""

    rank: object
    cost: float
    loss: float


def allocate(options: dict[str, list[Option]], budget: float) -> dict[str, Option]:
    """The option of each layer, at a total cost of at most ``budget``.

    Parameters
    ----------
    options : dict of str to list of Option
        At least one for each layer.
    budget : float
        In the unit of the costs.

    Raises
    ------
    ValueError
        If the cheapest options together cost more.
    """
    least = sum(min(option.cost for option in offered) for offered in options.values())
    if least > budget:
        raise ValueError(f"a budget of {budget:.4g} cannot be met; the least is {least:.4g}")
    low, high = 0.0, 1.0
    while _total(_at_price(options, high)) > budget:
        low, high = high, 4 * high
    for _ in range(100):
        price = (low + high) / 2
        if _total(_at_price(options, price)) > budget:
            low = price
        else:
            high = price
    return _spend(options, _at_price(options, high), budget)


def _at_price(options: dict[str, list[Option]], price: float) -> dict[str, Option]:
    return {
        name: min(offered, key=lambda o: (o.loss + price * o.cost, o.cost))
        for name, offered in options.items()
    }


def _total(chosen: dict[str, Option]) -> float:
    return sum(option.cost for option in chosen.values())


def _spend(options, chosen: dict[str, Option], budget: float) -> dict[str, Option]:
    """The choice after all single steps that the budget still allows."""
    chosen = dict(chosen)
    while True:
        left = budget - _total(chosen)
        steps = [
            ((chosen[name].loss - o.loss) / max(o.cost - chosen[name].cost, 1e-12), name, o)
            for name, offered in options.items()
            for o in offered
            if o.loss < chosen[name].loss and o.cost - chosen[name].cost <= left
        ]
        if not steps:
            return chosen
        _, name, option = max(steps, key=lambda step: step[0])
        chosen[name] = option
