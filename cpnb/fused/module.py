"""A chain of layers as one module that computes it along a chosen path."""

import torch
from torch import Tensor, nn

from cpnb.fused import portable
from cpnb.fused.chain import Chain
from cpnb.fused.kernel import Kernel, uncovered
from cpnb.layers import CPConv2d

PATHS = ("dense, NCHW", "dense", "factored", "portable", "compiled")


class FusedConv(nn.Module):
    """A convolution with the maxout, ReLU and 1x1 convolutions behind it; for inference only.

    Parameters
    ----------
    layers : sequence of nn.Module
        A `CPConv2d` or `nn.Conv2d` and what follows it; all of it must belong to one `Chain`.
    path : {"dense, NCHW", "dense", "factored", "portable", "compiled"}
        PyTorch's convolution with the rebuilt kernel, in NCHW or channels_last; the layers one by
        one; strips in plain PyTorch; the C++ kernel. The last serves float32 on the CPU; other
        input, gradients, tracing and export take the layers one by one, with the same result.

    Raises
    ------
    ValueError
        Unknown path; layers that are no chain; a chain that the compiled kernel does not cover.
    cpnb.fused.native.KernelUnavailable
        The compiled kernel cannot be built on this machine.
    """

    def __init__(self, layers, path: str):
        super().__init__()
        if path not in PATHS:
            raise ValueError(f"path must be one of {', '.join(map(repr, PATHS))}, got {path!r}")
        layers = list(layers)
        if path.startswith("dense") and isinstance(layers[0], CPConv2d):
            layers[0] = layers[0].to_conv()
        self.layers = nn.Sequential(*layers)
        self.path = path
        self.layout = torch.contiguous_format if "NCHW" in path else torch.channels_last
        self.eval().requires_grad_(False)
        chain = Chain(layers)
        if chain.length < len(layers):
            raise ValueError(f"layers must be one chain; {layers[chain.length]} does not belong")
        self._kernel = Kernel(chain) if path == "compiled" else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, H, W) -> (N, T, H', W'), as the layers one by one."""
        if self.path == "compiled" and _plain(x) and self._takes(x):
            if self._kernel is None:  # dropped with weights that changed
                self._kernel = Kernel(Chain(self.layers))
            return self._kernel(x)
        if self.path == "portable" and x.ndim == 4 and not _traced():
            return portable.run(Chain(self.layers), x)
        return self.layers(x.contiguous(memory_format=self.layout) if x.ndim == 4 else x)

    def _takes(self, x: Tensor) -> bool:
        chain = Chain(self.layers) if self._kernel is None else self._kernel.chain
        if self._kernel is None and uncovered(chain):
            return False
        return x.ndim == 4 and x.shape[1] == chain.in_channels

    def train(self, mode: bool = True) -> "FusedConv":
        """Stays in evaluation mode: there is nothing to train here."""
        return super().train(False)

    def _apply(self, fn, recurse=True):
        self._kernel = None  # its weights are copies
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args, **kwargs):
        self._kernel = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self):
        return self.__dict__ | {"_kernel": None}  # pointers cannot be copied or pickled

    def extra_repr(self) -> str:
        return f"path={self.path!r}"


def _plain(x: Tensor) -> bool:
    """Whether x is a tensor whose memory may be handed to the kernel."""
    return (
        type(x) in (Tensor, nn.Parameter)
        and not _traced()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.layout == torch.strided
        and not (x.requires_grad and torch.is_grad_enabled())
        and not torch.is_autocast_enabled("cpu")
    )


def _traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()
