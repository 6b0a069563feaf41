"""A chain of layers as one module that computes it along a chosen path."""

import warnings

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.jit import is_tracing

from cpnb.fused import gpu, kernel, portable
from cpnb.fused.chain import Chain
from cpnb.fused.native import KernelUnavailable
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
        one; strips in plain PyTorch; the C++ kernel on the CPU, the Triton one on a GPU. The last
        serves input of the weights' own dtype and device (float32 on the CPU). Other input, and
        on the last two paths autocast, input that requires a gradient, tracing and export, take
        the layers one by one, with the same result.

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
        self.eval().requires_grad_(False)
        chain = Chain(layers)
        if chain.length < len(layers):
            raise ValueError(f"layers must be one chain; {layers[chain.length]} does not belong")
        self._kernel = _compiled(chain).Kernel(chain) if path == "compiled" else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, H, W) -> (N, T, H', W'), as the layers one by one."""
        if self.path == "compiled" and _plain(x):
            if self._kernel is None:  # dropped with weights that changed
                self._kernel = self._rebuilt()
            if self._kernel and self._kernel.takes(x):
                return self._kernel(x)
        if self.path == "portable" and _plain(x):
            return portable.run(Chain(self.layers), x)
        return self.layers(x.contiguous(memory_format=self.layout) if x.ndim == 4 else x)

    @property
    def layout(self) -> torch.memory_format:
        """Of the maps; no attribute, since a memory format cannot be pickled."""
        return torch.contiguous_format if "NCHW" in self.path else torch.channels_last

    def _rebuilt(self):
        """The kernel for the weights as they are, or False where there is none."""
        chain = Chain(self.layers)
        try:
            return _compiled(chain).Kernel(chain)
        except ValueError:  # a dtype or a device that it does not cover
            return False
        except KernelUnavailable as error:
            warnings.warn(f"FusedConv goes on layer by layer: {error}", stacklevel=3)
            return False

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


def _compiled(chain: Chain):
    """The module with the compiled kernel for the device that the weights are on."""
    return gpu if chain.links[0].conv.weight.is_cuda else kernel


def _plain(x: Tensor) -> bool:
    """Whether x is a batch whose memory may be handed to the kernel."""
    return (
        (type(x) is Tensor or type(x) is nn.Parameter)
        and x.ndim == 4
        and (x.is_cpu or x.is_cuda)
        and x.layout is torch.strided
        and not x.is_neg()
        and not (x.requires_grad and torch.is_grad_enabled())
        and not torch.is_autocast_enabled("cpu" if x.is_cpu else "cuda")
        and not _traced()
    )


def _traced() -> bool:
    return is_compiling() or is_tracing()
