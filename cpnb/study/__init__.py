"""What this replication says: claims and verdicts, recorded tables and figures.

Stands on all other rooms; none knows of it. Start reading at `claims` (each claim and how the
records answer it); notebooks take `record`, `tables` and `figures`.
"""

from cpnb.study import figures, tables
from cpnb.study.intervals import sureness, widest, with_interval
from cpnb.study.machines import here
from cpnb.study.recording import fits, record, versus

__all__ = ["figures", "fits", "here", "record", "sureness", "tables", "versus",
           "widest", "with_interval"]  # fmt: skip
