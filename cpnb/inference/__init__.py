"""Speed: latency and multiplies of models, and factored layers made fast.

Knows time, and nothing of claims. Start reading at `latency` (how speed is measured) and
`optimise` (what `cpnb.optimize_for_inference` does); the kernels stand in `fused`.
"""
