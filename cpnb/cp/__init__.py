"""The CP decomposition: the paper's Gauss–Newton solver, made stable, and its baselines.

Knows tensors, and nothing of networks. Start reading at `nls` (the solver's door) and
`gauss_newton` (the idea); `algebra` has the words they are written in.
"""
