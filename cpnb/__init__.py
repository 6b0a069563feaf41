"""cpnb: speeding up convolutional networks by CP decomposition and fine-tuning.

The module behind the notebooks that replicate Lebedev et al. (ICLR 2015, arXiv 1412.6553). Public
names stand in ``__init__.pyi``, by room; each is loaded when it is first asked for, so that the
command line does not wait for PyTorch.
"""

import sys

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

MOVED = {f"cpnb.{name}": f"cpnb {name}" for name in ("sweep", "report", "publish")}
if sys.argv[:1] == ["-m"] and (moved := [word for word in sys.orig_argv if word in MOVED]):
    sys.exit(f"python -m {moved[0]} is now: python -m {MOVED[moved[0]]}")
