"""Fast inference of factored layers: the whole stack over tiles that stay in the cache.

`native` builds the C++ kernel, `kernel` calls it for one layer; on a GPU `gpu` does so with the
Triton kernels of `triton_kernels`; `portable` does the same in plain PyTorch. `optimise`
chooses between them and the unfused layers by measurement.
"""
