"""Every claim of the paper and of its rivals, and how the records answer it.

``mark``: C, confirmed in a readable source; U, from memory, unconfirmed; A, arithmetic. A claim's
``find`` takes the records and returns a Finding, or None where nothing is recorded.
"""

from __future__ import annotations

from statistics import mean, median

from cpnb.study.alexnet_claims import ALEXNET_CLAIMS
from cpnb.study.commands import INFERENCE, LOWER, RUN_02, RUN_03, RUN_04, RUN_05
from cpnb.study.findings import FAILS, HOLDS, NO, OTHER, YES, Claim, Finding, by_seed, speedups
from cpnb.study.intervals import GOOD, with_interval
from cpnb.study.own_claims import OWN_CLAIMS
from cpnb.study.rival_claims import RIVAL_CLAIMS
from cpnb.study.selection import (
    RANKS_64,
    chosen,
    main_runs,
    newest_code,
    optimised_charnets,
    setting,
)


def _percent(runs: list[dict], key: str) -> float:
    return 100 * mean(r[key] for r in runs)


def _drop(runs: list[dict], key: str) -> float:
    return _percent(runs, "accuracy_baseline") - _percent(runs, key)


def _lost(runs: list[dict], key: str) -> str:
    """ "0.86 points (3 seeds, 0.79 to 0.99)"."""
    each = [100 * (run["accuracy_baseline"] - run[key]) for run in runs]
    told = "one seed"
    if len(each) > 1:
        told = f"{len(each)} seeds, {min(each):.2f} to {max(each):.2f}"
    return f"{mean(each):.2f} points ({told})"


def baseline(rows):
    runs = chosen(rows, claim="charnet-baseline", dataset="chars74k", saved=True)[-1:]
    if not runs:
        return None
    run = runs[0]
    good = with_interval(run["accuracy_good"], GOOD)
    here = (
        f"{with_interval(run['accuracy'], run['test_size'])} of all {run['test_size']:,} "
        f"characters of the Chars74K test split, {good} of the {GOOD} of its GoodImg part; "
        f"trained in {run['seconds'] / 60:.0f} minutes"
    )
    return Finding(here, "reached, on other data" if run["accuracy_good"] >= 0.91 else NO, runs)


def accuracy_after(plain: bool):
    """The whole pipeline from the paper's solver, or from the bounded one, which is ours."""

    def finding(rows):
        runs = main_runs(rows, plain=plain)
        if not runs:
            return None
        images, before = runs[0]["test_size"], mean(r["accuracy_baseline"] for r in runs)
        after = mean(r["accuracy_finetuned"] for r in runs)
        steps = setting(runs[0], "n_iter_max")
        how, told = (
            (f"{steps} steps from an SVD start; ", f"; {steps} steps") if steps else ("", "")
        )
        here = (
            f"{with_interval(before, images)} → {with_interval(after, images)}"
            f"{by_seed(runs)}; {how}Chars74K test, {images:,} characters"
        )
        kept = all(round(100 * (before - r["accuracy_finetuned"]), 6) <= 1 for r in runs)
        verdict = (YES if plain else OTHER) if kept else NO
        seeds = by_seed(runs).removeprefix(", ")
        brief = f"{before:.1%} → {after:.1%} ({seeds}{told})"
        return Finding(here, verdict, runs, brief)

    return finding


def cpu_speedup(rows):
    runs = [r for r in main_runs(rows) if r["latency"]["device"] == "cpu"]
    if not runs:
        return None
    each, bound = [r["speedup"] for r in runs], runs[0]["bound"]
    here = (
        f"{median(each):.1f}× over the dense net, both in PyTorch ({len(runs)} runs, "
        f"{min(each):.1f} to {max(each):.1f}×; batch 64, ranks 64 and 64); {bound:.2f} times "
        "fewer multiplies"
    )
    return Finding(here, YES if min(each) >= 8.5 else NO, runs)


def fused(case: str, ranks: dict, goal: float):
    """Fused inference against the fastest dense net of all runtimes."""

    def finding(rows):
        runs = chosen(rows, claim="inference", case=case, ranks=ranks, device="cpu", threads=2)
        if not runs:
            return None
        found, told, runs = _of_newest_code(runs)
        peers = median(r["speedup_of_peers"] for r in runs)
        here = (
            f"{told}, over the fastest dense net of all runtimes; the best of the others "
            f"factored: {peers:.1f}×"
        )
        simd = runs[-1].get("simd")
        brief = (
            f"{speedups(runs)} on {runs[-1]['input'][0]} patches{f' with {simd}' if simd else ''}, "
            "over the fastest dense net of all runtimes, at "
            f"{runs[-1]['bound']:.1f} times fewer multiplies"
        )
        return Finding(here, OTHER if found >= goal else NO, runs, brief)

    return finding


def _of_newest_code(runs: list[dict]) -> tuple[float, str, list[dict]]:
    """Median speed-up of the runs at the newest one's commit, the median told, these runs."""
    runs = newest_code(runs)
    each = [r["speedup"] for r in runs]
    told = f"{speedups(runs)} at {runs[-1]['bound']:.2f} times fewer multiplies"
    return median(each), told, runs


def fused_within_a_point(goal: float):
    """The fastest of the nets, at whatever ranks, that the pipeline kept within one point."""

    def finding(rows):
        kept = []
        for ranks, runs in optimised_charnets(rows).items():
            tuned = main_runs(rows, dict(ranks))
            if tuned and _drop(tuned, "accuracy_finetuned") <= 1:
                kept.append((*_of_newest_code(runs), ranks, tuned))
        if not kept:
            return None
        found, told, runs, ranks, tuned = max(kept, key=lambda net: net[0])
        here = (
            f"ranks {', '.join(f'{rank} ({layer})' for layer, rank in ranks)}: {told}, over the "
            f"fastest dense net of all runtimes; drop "
            f"{_lost(tuned, 'accuracy_finetuned')}"
        )
        verdict = f"{OTHER}, at ranks chosen on the test split"
        return Finding(here, verdict if found >= goal else NO, [*runs, *tuned])

    return finding


def ranks_64(rows):
    runs = main_runs(rows)
    if not runs:
        return None
    raw, after = (_lost(runs, f"accuracy_{stage}") for stage in ("decomposed", "finetuned"))
    here = f"bounded NLS: drop {raw} as decomposed, {after} after fine-tuning"
    kept = _drop(runs, "accuracy_finetuned") <= 1
    return Finding(here, f"{HOLDS}, by bounded NLS" if kept else FAILS, runs)


def surviving_error(rows):
    runs = main_runs(rows)
    if not runs:
        return None
    errors = [mean(r["rel_error"][i] for r in runs) for i in (0, 1)]
    here = (
        f"bounded NLS: conv3 {errors[1]:.0%} (conv2 {errors[0]:.0%}); drop after fine-tuning "
        f"{_lost(runs, 'accuracy_finetuned')}"
    )
    kept = _drop(runs, "accuracy_finetuned") <= 1 and errors[1] >= 0.7
    return Finding(here, f"{HOLDS}, by bounded NLS" if kept else FAILS, runs)


def _same_conditions(rows: list[dict]) -> list[dict]:
    """One layer's decompositions in the conditions of the newest of them on real characters."""
    runs = chosen(rows, claim="layer-decomposition", layer="conv2", dataset="chars74k")
    keys = ("seed", "n_iter_max", "commit")
    return [r for r in runs if all(r[k] == runs[-1][k] for k in keys)]


def nls_against_greedy(rows):
    runs = _same_conditions(rows)
    error = {(r["method"], r["rank"]): r["rel_error"] for r in runs}
    ranks = sorted(
        rank for method, rank in error if method == "nls-plain" and ("greedy", rank) in error
    )
    if not ranks:
        return None
    pairs = [f"R={r}: {error['nls-plain', r]:.3f} / {error['greedy', r]:.3f}" for r in ranks]
    better = all(error["nls-plain", r] < error["greedy", r] for r in ranks)
    here = f"relative error of conv2, plain NLS / greedy, one seed: {', '.join(pairs)}"
    return Finding(here, f"{HOLDS}; one seed, so no spread is known" if better else FAILS, runs)


def instability(rows):
    by_method = {r["method"]: r for r in _same_conditions(rows) if r["rank"] == 64}
    if not {"nls", "nls-plain"} <= set(by_method):
        return None
    plain, bounded = by_method["nls-plain"], by_method["nls"]
    here = (
        f"conv2, R=64: plain NLS has Σ‖term‖²/‖K‖² = {plain['degeneracy']:,.0f} at a relative "
        f"error of {plain['rel_error']:.4f}; bounded, {bounded['degeneracy']:.0f} at "
        f"{bounded['rel_error']:.4f}"
    )
    seen = plain["degeneracy"] > 100
    cured = bounded["degeneracy"] <= 10 and bounded["rel_error"] < 1.005 * plain["rel_error"]
    verdict = "terms cancel in plain NLS, on CharNet, one seed" if seen else "not seen here"
    verdict += "; not in bounded NLS" if seen and cured else ""
    return Finding(here, verdict, [plain, bounded])


def gpu_speedup(rows):
    runs = chosen(rows, claim="speedup", what="CharNet")
    on = {
        kind: {str(r["input"]): r for r in runs if r["device"] == kind} for kind in ("cuda", "cpu")
    }
    both = sorted(set(on["cuda"]) & set(on["cpu"]))
    if not both:
        return None
    pairs = [(on["cuda"][i], on["cpu"][i]) for i in both]
    told = [f"{g['speedup']:.1f}× (CPU {c['speedup']:.1f}×) at {g['input']}" for g, c in pairs]
    holds = all(g["speedup"] < c["speedup"] for g, c in pairs) and any(
        g["speedup"] > 1 for g, _ in pairs
    )
    used = [r for pair in pairs for r in pair]
    return Finding("; ".join(told), HOLDS if holds else FAILS, used)


def dense_image(rows):
    runs = chosen(rows, claim="speedup", what="CharNet", ranks=[64, 64], device="cpu")
    runs = [r for r in runs if r["input"] == [1, 1, 240, 320]][-1:]
    if not runs:
        return None
    bound = runs[0]["bound"]
    here = (
        f"{bound:.2f} times fewer by an exact count, borders included; measured "
        f"{runs[0]['speedup']:.1f}× over the dense net, both in PyTorch"
    )
    agrees = abs(bound / 33.6 - 1) < 0.01
    return Finding(here, "arithmetic confirmed within 1%" if agrees else NO, runs)


NO_GPU = "not tested yet: no GPU run recorded"

CLAIMS = [
    Claim("CharNet, the baseline", "91.0% on ICDAR-2003", "C", baseline, RUN_02),
    Claim("CharNet: accuracy after CP, plain NLS (the paper's solver)", "91% → 90%", "C",
          accuracy_after(plain=True), f"{RUN_04} -p max_degeneracy 0",
          short="CharNet's accuracy, plain NLS (the paper's solver)"),
    Claim("… the same pipeline, bounded NLS (ours)", "91% → 90%", "C",
          accuracy_after(plain=False), RUN_04, short="… bounded NLS (ours)"),
    Claim("CharNet: whole-net CPU speed-up, run by PyTorch", "8.5×", "C", cpu_speedup, RUN_04),
    Claim("… run by `optimize_for_inference` (ours)", "8.5×", "C",
          fused("CharNet, 64 patches", RANKS_64, 8.5), "make bench-inference",
          short="CharNet's CPU speed-up, `optimize_for_inference`"),
    Claim("… at whatever ranks lose at most a point", "8.5×", "C",
          fused_within_a_point(8.5), f"{LOWER} && {INFERENCE}"),
    Claim("Ranks that keep the accuracy: conv2, conv3", "64, 64", "U", ranks_64, RUN_04),
    Claim("Kernel error that conv3 survives", "about 78%", "U", surviving_error, RUN_04),
    Claim("NLS against greedy deflation", "better at every rank", "U", nls_against_greedy, RUN_03),
    Claim("Low-rank CP is unstable", "blamed for learning rates hard to find on the larger net",
          "U", instability, RUN_03),
    Claim("GPU speed-up", "present, smaller than CPU's", "U", gpu_speedup, RUN_05, NO_GPU),
    Claim("CharNet on a 240×320 image, fewer multiplies", "33.6×", "A", dense_image, RUN_05),
    *ALEXNET_CLAIMS,
    *RIVAL_CLAIMS,
    *OWN_CLAIMS,
]  # fmt: skip
