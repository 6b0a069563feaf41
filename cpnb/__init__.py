"""cpnb: speeding up convolutional networks by CP decomposition and fine-tuning.

The module behind the notebooks that replicate Lebedev et al. (ICLR 2015, arXiv 1412.6553).
"""

from .als import cp_als, cp_greedy
from .compress import decompose
from .cp import CPResult
from .layers import CPConv2d
from .nls import cp_nls

__version__ = "0.1.0"

__all__ = ["CPConv2d", "CPResult", "cp_als", "cp_greedy", "cp_nls", "decompose"]
