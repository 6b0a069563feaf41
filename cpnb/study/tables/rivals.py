"""CP beside its rivals on CharNet, as recorded: who wins where, at like multiplies, in words."""

from __future__ import annotations

from IPython.display import Markdown

from cpnb.study.commands import RIVALS
from cpnb.study.comparison import (
    NAMES,
    compared,
    in_order,
    like_multiplies,
    verdict,
    winners,
)
from cpnb.study.findings import counted
from cpnb.study.machines import hardware
from cpnb.study.selection import characters, chosen
from cpnb.study.tables.layout import Table, show, times, to_be_made


def _ranks(ranks) -> str:
    """((9, 23), (27, 84)) → "(9, 23), (27, 84)"; a rank may be one number."""
    return ", ".join(str(rank).replace("[", "(").replace("]", ")") for rank in ranks)


def _deviating(drop: tuple[float, float | None]) -> str:
    """Mean and standard deviation; one run has none."""
    mean, deviation = drop
    if deviation is None:
        return f"{mean:.2f}"
    # Spaces that do not break, for a narrow page.
    return f"{mean:.2f} ± {deviation:.2f}".replace(" ", "\N{NO-BREAK SPACE}")


RIVAL_NETS = {
    "method": ("method", NAMES.get),
    "ranks": ("ranks of conv2, conv3", _ranks),
    "rel_error": ("relative errors", "{}"),
    "bound": ("fewer multiplies", times),
    "speedup": ("speed-up over dense in PyTorch", times),
    "drop_before": ("drop before (points)", "{:.1f}"),
    "drop_after": ("drop after (points)", "{:.1f}"),
}  # of the nets that 08 makes
NET = {
    "method": RIVAL_NETS["method"],
    "ranks": ("ranks", _ranks),
    "speedup": RIVAL_NETS["speedup"],
    "bound": RIVAL_NETS["bound"],
}
RECORDED = NET | {
    "drop_before": ("drop before", "{:.2f}"),
    "drop_of_seeds": ("drop after", _deviating),
}
WITHIN = (
    {"limit": ("within (points)", "{}")}
    | NET
    | {
        "chosen_by": ("drop, validation", "{}"),
        "drop_of_seeds": ("drop, test", _deviating),
        "speedup_optimised": ("speed-up, optimised", times),
    }
)
DROPS = "ranks of conv2 and conv3; drops in points, mean ± standard deviation"


def rivals_within(*limits: float, rows: list[dict] | None = None) -> Table:
    """Of each method its fastest net that loses at most so many points after fine-tuning.

    Nets are chosen by the validation split and told on the test split.

    Parameters
    ----------
    *limits : float
        Percentage points, one part of the table each.
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    points = compared(chosen(rows))
    lines = []
    for limit in limits:
        told = f"{limit:g}"
        for winner in winners(points, limit):
            line = {"limit": told, "method": winner["method"]}
            lines.append(line | (_line(winner["point"]) if winner["point"] else {}))
            told = ""
    return show(
        lines, WITHIN, to_be_made(RIVALS), conditions([line for line in lines if "runs" in line])
    )


def rivals_at_like_multiplies(ranks: list[int], rows: list[dict] | None = None) -> Table:
    """All methods at the multiplies of CP at these ranks of conv2 and conv3.

    Parameters
    ----------
    ranks : list of int
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    points = compared(chosen(rows))
    like = like_multiplies(points, ranks)
    lines = [_line(point) | {"share": point["speedup"] / point["bound"]} for point in like]
    columns = RECORDED | {"share": ("speed-up in % of fewer multiplies", "{:.0%}")}
    return show(lines, columns, to_be_made(RIVALS), conditions(like))


def rivals_in_words(ranks: list[int], rows: list[dict] | None = None) -> Markdown:
    """The verdict within one point, and the methods' order at the multiplies of CP at `ranks`.

    Parameters
    ----------
    ranks : list of int
    rows : list of dict, optional
        Records; the committed ones by default.
    """
    points = compared(chosen(rows))
    like = like_multiplies(points, ranks)
    if not like:
        return Markdown(to_be_made(RIVALS))
    return Markdown(
        f"{verdict(points)}\n\nAt like multiplies, by measured speed over dense in PyTorch: "
        f"{in_order(like, 'speedup', '{:.1f}×', reverse=True)}. By accuracy drop after "
        f"fine-tuning, in points: {in_order(like, 'drop_after', '{:.1f}')}."
    )


def conditions(points: list[dict], told: str = DROPS) -> str:
    """What the points share: data, what is told of the seeds, and where they were timed."""
    if not points:
        return ""
    run, timed = points[0]["runs"][0], [point["runs"][-1] for point in points]
    seeds = sorted({point["seeds"] for point in points})
    many = counted(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    return (
        f"{run['test_size']:,} {characters(run)} characters of the test split; {told} of {many}; "
        f"speeds, {timed[-1]['batch']} patches at a time: {hardware(timed)}"
    )


def _line(point: dict) -> dict:
    """A point with its ranks and drop as one value each; lists would be taken for several runs."""
    drop, unseen = (point["drop_after"], point["spread"]), point["drop_validation"]
    line = point | {"ranks": tuple(point["ranks"]), "drop_of_seeds": drop}
    if unseen is None:
        return line
    told = _deviating((unseen, point["spread_validation"]))
    told += f", {counted(point['seeds_validation'], 'seed')}"
    return line | {"chosen_by": told.replace(" ", "\N{NO-BREAK SPACE}")}
