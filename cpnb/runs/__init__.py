"""Runs of notebooks and their records: parameters in, executed notebooks and rows out.

Knows machines and files, and nothing of networks. Start reading at `records` (what a row is)
and `notebooks` (how one is executed); `sweep` and `publish` are commands. README.md beside this
file tells how sweeps work, here and on a cluster.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["records"])
