"""The machines that runs name, as a reader understands them."""

from __future__ import annotations

from cpnb.runs.machine import environment
from cpnb.study.findings import counted


def cpu(run: dict) -> str:
    """The processor that a run names, with its vector instructions where they were recorded."""
    return f"{run['cpu']} ({run['simd']})" if run.get("simd") else run["cpu"]


def here() -> str:
    """This machine, for the head of a page: processor, vector instructions, threads, versions."""
    run = environment()
    gpu = f", {run['gpu']}" if run["gpu"] else ""
    threads = counted(run["threads"], "thread")
    return f"{cpu(run)}, {threads}{gpu}; torch {run['versions']['torch']}"


def machine(run: dict) -> str:
    """The GPU where it did the work, else processor and threads."""
    if run["device"].startswith("cuda"):
        return run["gpu"]
    return f"{cpu(run)}, {counted(run['threads'], 'thread')}"


def hardware(runs: list[dict]) -> str:
    """All machines of some runs, and the versions of PyTorch."""
    machines = {machine(run) for run in runs}
    versions = {f"torch {run['versions']['torch']}" for run in runs}
    return "; ".join(sorted(machines) + sorted(versions)) or "–"
