"""Fast inference of factored layers: the whole stack over tiles that stay in the cache.

`native` builds the C++ kernel, `kernel` calls it for one layer, `portable` does the same in plain
PyTorch. `cpnb.inference` chooses between them and the unfused layers by measurement.
"""
