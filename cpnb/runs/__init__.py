"""Runs of notebooks and their records: parameters in, executed notebooks and rows out.

Knows machines and files, and nothing of networks. Start reading at `records` (what a row is)
and `notebooks` (how one is executed); `sweep` and `publish` are commands.
"""
