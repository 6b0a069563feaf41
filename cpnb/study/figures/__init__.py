"""The figures of the notebooks: units on every axis, legible at half size.

Knows rows and results, and nothing of how they were made. Start reading at `style`; a figure
without arguments draws what is recorded.
"""

from cpnb.study.figures.accuracy import contact_sheets, methods_compared, tradeoff, training_curves
from cpnb.study.figures.alexnet import alexnet_kernels, alexnet_speedups, squeezenet
from cpnb.study.figures.decomposition import factor_pictures, lines_by_rank, solver_curves
from cpnb.study.figures.headline import headline
from cpnb.study.figures.networks import error_curves, when_it_pays
from cpnb.study.figures.rivals import rivals
from cpnb.study.figures.speed import measured_beside_bound, roofline
from cpnb.study.figures.starts import starts
from cpnb.study.figures.style import BLACK, BLUE, GREEN, ORANGE, use_style
from cpnb.study.figures.sweeps import drops_by_rank, over_two

__all__ = [
    "BLACK", "BLUE", "GREEN", "ORANGE",
    "contact_sheets", "factor_pictures", "lines_by_rank", "measured_beside_bound",
    "methods_compared", "roofline", "solver_curves", "tradeoff", "training_curves", "use_style",
    "over_two", "drops_by_rank", "alexnet_kernels", "alexnet_speedups", "squeezenet", "rivals",
    "error_curves", "when_it_pays", "starts", "headline",
]  # fmt: skip
