"""The CP decomposition: Gauss–Newton, plain as in the paper and bounded (ours), and baselines.

Knows tensors, and nothing of networks. Start reading at `nls` (the solver's door) and
`gauss_newton` (the idea); `algebra` has the words they are written in.
"""
