"""Which rows of the records a table or a claim rests on."""

from __future__ import annotations

from cpnb.runs.records import recorded

RANKS_64 = {"conv2": 64, "conv3": 64}
CHARACTERS = {"characters": "drawn", "chars74k": "Chars74K"}


def chosen(rows: list[dict] | None, **wanted) -> list[dict]:
    """Of the rows (None: the committed records), those that have all the given values."""
    rows = recorded() if rows is None else rows
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def setting(row: dict, name: str, default=None):
    """A parameter of a run; `default` where the run is older than the parameter."""
    return row.get("parameters", {}).get(name, default)


def ranks_of(row: dict) -> dict:
    """Layer to rank of a run's factored layers."""
    return dict(zip(row["layers"], row["ranks"], strict=True))


def start(row: dict) -> str:
    """The solver that a run started from, as a reader understands it."""
    method = row.get("method", "nls")
    if method != "nls":
        return {"als": "ALS", "greedy": "greedy, term by term"}.get(method, method)
    bound = setting(row, "max_degeneracy", 10.0)
    return f"NLS, bounded (≤\u00a0{bound:g})" if bound else "NLS, plain (the paper's)"


def pipeline_runs(rows: list[dict] | None, ranks: dict = RANKS_64, **wanted) -> list[dict]:
    """Runs of the whole pipeline at these ranks, told on the test split."""
    return [
        row | {"start": start(row)}
        for row in chosen(rows, claim="charnet-finetune", **wanted)
        if ranks_of(row) == ranks and setting(row, "split", "test") == "test"
    ]


def main_runs(rows: list[dict] | None, ranks: dict = RANKS_64, plain: bool = False) -> list[dict]:
    """The pipeline on real characters, the newest run of each seed: bounded NLS, ours, or plain."""
    runs = pipeline_runs(rows, ranks, dataset="chars74k", method="nls")
    return newest([r for r in runs if bool(setting(r, "max_degeneracy", 10.0)) != plain], "seed")


def main_sweep(rows: list[dict] | None) -> dict | None:
    """The recorded sweep of ranks with the most points, the newest of such; None without any.

    Not simply the newest: `make replicate` leaves a small one.
    """
    sweeps = chosen(rows, claim="rank-sweep")
    return max(reversed(sweeps), key=lambda sweep: len(sweep["points"]), default=None)


def optimised_charnets(rows: list[dict] | None) -> dict[tuple, list[dict]]:
    """Ranks, as pairs of layer and rank, to the timings of that CharNet on 64 patches.

    Of earlier code's runs `torch.compile` took no part in some: these are left out.
    """
    nets: dict[tuple, list[dict]] = {}
    for run in chosen(rows, claim="inference", device="cpu", input=[64, 1, 24, 24], threads=2):
        if run["case"].startswith("CharNet") and "dense, torch.compile" in run["latencies"]:
            nets.setdefault(tuple(run["ranks"].items()), []).append(run)
    return nets


def lost(run: dict, stage: str = "finetuned") -> float:
    """Accuracy that a run has lost against its baseline, percentage points."""
    return 100 * (run["accuracy_baseline"] - run[f"accuracy_{stage}"])


def characters(run: dict) -> str:
    """The data set of a run, in a word before "characters"."""
    return CHARACTERS.get(run["dataset"], run["dataset"])


def newest_code(rows: list[dict], *keys: str) -> list[dict]:
    """Of the rows that agree in `keys`, those recorded by the newest commit among them."""
    newest = {_key(row, keys): row["commit"] for row in rows}
    return [row for row in rows if row["commit"] == newest[_key(row, keys)]]


def newest(rows: list[dict], *keys: str) -> list[dict]:
    """Of the rows that agree in `keys`, the last one."""
    return list({_key(row, keys): row for row in rows}.values())


def grouped(rows: list[dict], *keys: str) -> list[list[dict]]:
    """Rows that agree in `keys`, together, in order of appearance."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(_key(row, keys), []).append(row)
    return list(groups.values())


def _key(row: dict, keys) -> tuple:
    return tuple(str(row.get(key)) for key in keys)
