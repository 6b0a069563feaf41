"""Recorded runs as tables for the notebooks' pages, one function a table.

Knows rows, and nothing of how they were made. Start reading at `layout`.
"""

from cpnb.study.tables.alexnet import (
    KERNEL_FITS,
    TOP_K,
    alexnet_finetuning,
    alexnet_kernels,
    alexnet_latencies,
    alexnet_rates,
    alexnet_runtimes,
    squeezenet,
)
from cpnb.study.tables.claims import beyond, claims, commands, questions
from cpnb.study.tables.finetuning import (
    SWEEP_POINTS,
    accuracies,
    conv1_too,
    finetuning,
    fitted,
    own_runs,
    seeds,
)
from cpnb.study.tables.kernels import FITS, SOLVERS, decompositions
from cpnb.study.tables.layout import percent, points, rounded, show, spread, times
from cpnb.study.tables.live import multiplies, solver_results
from cpnb.study.tables.networks import (
    alternatives,
    compress_seconds,
    compressions,
    forms,
    layer_speeds,
    tuned,
)
from cpnb.study.tables.rivals import (
    RIVAL_NETS,
    rivals_at_like_multiplies,
    rivals_in_words,
    rivals_within,
)
from cpnb.study.tables.solver import solver_errors, solver_seconds, solver_starts
from cpnb.study.tables.speed import (
    bounds,
    compared,
    inference,
    latencies,
    processors,
    speedups,
    stages,
)
from cpnb.study.tables.starts import learning_rates, plain_starts
from cpnb.study.tables.training import training

__all__ = [
    "FITS", "SOLVERS", "SWEEP_POINTS",
    "percent", "points", "rounded", "show", "spread", "times",
    "decompositions", "multiplies", "solver_errors", "solver_results", "solver_seconds",
    "solver_starts", "training",
    "accuracies", "conv1_too", "finetuning", "fitted", "learning_rates", "own_runs",
    "plain_starts", "seeds",
    "bounds", "compared", "inference", "latencies", "processors", "speedups", "stages",
    "alexnet_finetuning", "alexnet_kernels", "alexnet_latencies", "alexnet_rates",
    "alexnet_runtimes", "squeezenet", "KERNEL_FITS", "TOP_K",
    "rivals_at_like_multiplies", "rivals_in_words", "rivals_within", "RIVAL_NETS",
    "alternatives", "compress_seconds", "compressions", "forms", "layer_speeds", "tuned",
    "beyond", "claims", "commands", "questions",
]  # fmt: skip
