"""A plan of ranks: which layers of a network to factor, by which method, and at which rank.

The plan is a table that may be printed and edited; :func:`cpnb.plan` makes one
(`cpnb.inference.planning`), :func:`cpnb.compress` carries it out.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

from cpnb.inference.allocation import Option, allocate
from cpnb.inference.costs import Cost

NAMES = {"nls": "CP", "jaderberg": "SVD", "svd": "SVD", "": "dense"}  # as the table calls methods
HEAD = (
    "layer",
    "kernel",
    "method",
    "rank",
    "multiplies",
    "after",
    "ms",
    "after",
    "error",
    "dense because",
)


@dataclass
class PlannedLayer:
    """One layer of a plan.

    Attributes
    ----------
    kernel : tuple of int
        Shape of the weights.
    multiplies : Cost
        Of one sample.
    milliseconds : Cost
        Of the example's batch, in the fastest runtime, the layer by itself; scaled, so that the
        dense layers add up to the whole network, where they take longer by themselves.
    method : str
        As for :func:`cpnb.decompose`; empty where the layer stays dense.
    curve : dict
        Rank → relative error, at the ranks that were tried.
    sensitivity : float
        Nats of divergence for an error of one.
    reason : str
        Why it is no candidate; empty for one.
    """

    kernel: tuple[int, ...]
    multiplies: Cost
    milliseconds: Cost
    method: str = ""
    curve: dict[int, float] = field(default_factory=dict)
    sensitivity: float = 1.0
    reason: str = ""

    def error(self, rank: int) -> float:
        """Relative error at any rank: linear between the tried ones in the logarithms of both."""
        known = sorted(self.curve)
        low = max((r for r in known if r <= rank), default=known[0])
        high = min((r for r in known if r >= rank), default=known[-1])
        if low == high:
            return self.curve[low]
        share = math.log(rank / low) / math.log(high / low)
        logs = [math.log(max(self.curve[r], 1e-9)) for r in (low, high)]
        return math.exp((1 - share) * logs[0] + share * logs[1])

    def loss(self, rank: int | None) -> float:
        """Expected divergence in nats; none for the dense layer."""
        return 0.0 if rank is None else self.sensitivity * self.error(rank) ** 2

    def options(self, unit: str) -> list[Option]:
        """The dense layer, and every rank within the curve that is cheaper in that unit."""
        cost: Cost = getattr(self, unit)
        ranks = range(min(self.curve), max(self.curve) + 1) if self.curve else ()
        cheaper = [Option(r, cost(r), self.loss(r)) for r in ranks if cost(r) < cost.dense]
        return [Option(None, cost.dense, 0.0), *cheaper]


@dataclass
class Plan:
    """Which layers to factor at which rank; ``print(plan)`` shows it as a table.

    Attributes
    ----------
    ranks : dict
        Layer name to rank, of the layers to factor. May be edited; the table follows.
    layers : dict of str to PlannedLayer
        Every convolution and fully-connected layer.
    rest : dict of str to float
        Multiplies and milliseconds of the network beside them.
    """

    ranks: dict[str, int]
    layers: dict[str, PlannedLayer]
    rest: dict[str, float] = field(default_factory=lambda: {"multiplies": 0, "milliseconds": 0.0})

    @property
    def methods(self) -> dict[str, str]:
        """Layer name to method, of the layers to factor."""
        return {name: self.layers[name].method for name in self.ranks}

    @property
    def multiplies_dense(self) -> int:
        """Of the whole net as it is, for one sample."""
        return round(self._total("multiplies", {}))

    @property
    def multiplies(self) -> int:
        """Of the whole net as planned, for one sample."""
        return round(self._total("multiplies", self.ranks))

    @property
    def milliseconds_dense(self) -> float:
        """Of the whole net as it is, for the example's batch."""
        return self._total("milliseconds", {})

    @property
    def milliseconds(self) -> float:
        """Expected of the whole net as planned."""
        return self._total("milliseconds", self.ranks)

    @property
    def loss(self) -> float:
        """Expected divergence of the class probabilities, in nats; without data, Σ error²."""
        return sum(layer.loss(self.ranks.get(name)) for name, layer in self.layers.items())

    def within(self, multiplies: float | None = None, speedup: float | None = None) -> Plan:
        """The plan within another budget, from what was measured already; see :func:`cpnb.plan`.

        Raises
        ------
        ValueError
            Neither or both budgets are given; one that is out of range, or that cannot be met.
        """
        unit, budget = self._budget(multiplies, speedup)
        options = {name: layer.options(unit) for name, layer in self.layers.items()}
        least = sum(min(o.cost for o in offered) for offered in options.values()) + self.rest[unit]
        if least > budget:
            raise ValueError(self._cannot(unit, least, multiplies or speedup))
        picked = allocate(options, budget - self.rest[unit])
        ranks = {name: o.rank for name, o in picked.items() if o.rank is not None}
        return Plan(ranks, copy.deepcopy(self.layers), self.rest)

    def _budget(self, multiplies, speedup) -> tuple[str, float]:
        check_budget(multiplies, speedup)
        if speedup is None:
            return "multiplies", multiplies * self._total("multiplies", {})
        return "milliseconds", self._total("milliseconds", {}) / speedup

    def _cannot(self, unit: str, least: float, asked: float) -> str:
        whole = self._total(unit, {})
        if unit == "multiplies":
            share = math.ceil(1000 * least / whole) / 1000
            return f"multiplies={asked} cannot be met; the least share is {share}"
        return f"speedup={asked} cannot be met; the most is {math.floor(100 * whole / least) / 100}"

    def _total(self, unit: str, ranks: dict) -> float:
        own = (getattr(x, unit)(ranks.get(name)) for name, x in self.layers.items())
        return sum(own) + self.rest[unit]

    def __str__(self) -> str:
        rows = [HEAD, *(self._row(name, layer) for name, layer in self.layers.items())]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
        lines = [
            "  ".join(f"{x:<{w}}" for x, w in zip(r, widths, strict=True)).rstrip() for r in rows
        ]
        fewer = self.multiplies_dense / self.multiplies
        faster = self.milliseconds_dense / self.milliseconds
        lines.append(
            f"whole net: {self.multiplies_dense:,} multiplies a sample become {self.multiplies:,} "
            f"({fewer:.2f}x fewer), {self.milliseconds_dense:.3g} ms a batch (fastest runtime) "
            f"become about {self.milliseconds:.3g}, layer by layer ({faster:.2f}x); expected "
            f"divergence {self.loss:.3g}"
        )
        return "\n".join(lines)

    def _row(self, name: str, layer: PlannedLayer) -> tuple[str, ...]:
        rank, kernel = self.ranks.get(name), "×".join(map(str, layer.kernel))
        before, ms = f"{layer.multiplies.dense:,.0f}", f"{layer.milliseconds.dense:.3f}"
        if rank is None:
            why = layer.reason or "factored, it would lose more than it saves"
            return name, kernel, "dense", "–", before, before, ms, ms, "–", why
        after, then = f"{layer.multiplies(rank):,.0f}", f"{layer.milliseconds(rank):.3f}"
        return (
            name,
            kernel,
            NAMES[layer.method],
            str(rank),
            before,
            after,
            ms,
            then,
            f"{layer.error(rank):.3f}",
            "",
        )


def check_budget(multiplies, speedup) -> None:
    """Raise unless one of the two budgets is given, and one that asks for something."""
    if (multiplies is None) == (speedup is None):
        raise ValueError(
            f"give one budget, multiplies= or speedup=, got {multiplies} and {speedup}"
        )
    if multiplies is not None and not (_is_number(multiplies) and 0 < multiplies < 1):
        raise ValueError(f"multiplies must be a share above 0 and below 1, got {multiplies!r}")
    if speedup is not None and not (_is_number(speedup) and 1 < speedup < math.inf):
        raise ValueError(f"speedup must be a factor above 1, got {speedup!r}")


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
