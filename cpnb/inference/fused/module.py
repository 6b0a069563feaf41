"""A chain of layers as one module that computes it along a chosen path."""

import warnings

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.compiler import is_compiling
from torch.jit import is_tracing

from cpnb.inference.fused import gpu, kernel, portable
from cpnb.inference.fused.chain import Chain
from cpnb.inference.fused.native import KernelUnavailable
from cpnb.inference.fused.watch import Watch
from cpnb.layers.cp import CPConv2d
from cpnb.layers.plain import OPTIONS

PATHS = ("dense, NCHW", "dense", "factored", "portable", "compiled")


def _of_first(name: str) -> property:
    return property(lambda self: getattr(self.layers[0], name), doc=f"`{name}` of the first layer.")


class FusedConv(nn.Module):
    """A convolution with the maxout, ReLU and 1x1 convolutions behind it; for inference only.

    Parameters
    ----------
    layers : sequence of nn.Module
        A `CPConv2d` or `nn.Conv2d` and what follows it; all of it must belong to one `Chain`.
    path : {"dense, NCHW", "dense", "factored", "portable", "compiled"}
        PyTorch's convolution with the rebuilt kernel, in NCHW or channels_last; the layers one by
        one; strips in plain PyTorch; the C++ kernel on the CPU, the Triton one on a GPU. The last
        serves input of the weights' own dtype and device (float32 on the CPU). On the last two
        paths the layers run one by one, with the same result, for other input, under autocast,
        where a gradient is wanted or a part has hooks, when traced and exported. Changed weights
        and parts are followed; what is written through ``.data``, or in place into weights made in
        inference mode, is not seen.

    Raises
    ------
    ValueError
        Unknown path; layers that are no chain; a chain that the compiled kernel does not cover.
    cpnb.inference.fused.native.KernelUnavailable
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
        chain = self._chain()
        self._fuses = path in ("portable", "compiled")
        # One attribute, so that threads see the kernel with the weights that it is of.
        self._made = (Watch(self.layers), self._make_kernel(chain)) if self._fuses else None

    # Models read more of a layer than its output: that of the first one stays to be read.
    in_channels, out_channels = _of_first("in_channels"), _of_first("out_channels")
    kernel_size, groups = _of_first("kernel_size"), _of_first("groups")
    stride, padding = _of_first("stride"), _of_first("padding")
    dilation, padding_mode = _of_first("dilation"), _of_first("padding_mode")
    weight, bias = _of_first("weight"), _of_first("bias")
    __jit_unused_properties__ = [*OPTIONS[nn.Conv2d], "weight", "bias", "layout"]

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, H, W) -> (N, T, H', W'), as the layers one by one."""
        if self._fuses and plain_batch(x):
            kernel = self._current()
            if kernel and kernel.takes(x):
                return kernel(x)
        return self.layers(x.contiguous(memory_format=self.layout) if x.ndim == 4 else x)

    def _current(self):
        """The kernel for the layers as they are, or None where they have to run one by one."""
        watch, kernel = self._made or (None, None)
        if watch is None or watch.changed():
            watch, kernel = Watch(self.layers), None
        if watch.listened() or watch.trained():
            return None
        if kernel is None:
            kernel = self._kernel_or_false()
            self._made = watch, kernel
        return kernel

    def _chain(self) -> Chain:
        layers = list(self.layers)
        chain = Chain(layers)
        if chain.length < len(layers):
            raise ValueError(f"layers must be one chain; {layers[chain.length]} does not belong")
        return chain

    def _make_kernel(self, chain: Chain):
        if self.path == "portable":
            return portable.Kernel(chain)
        on_gpu = chain.links[0].conv.weight.is_cuda
        return (gpu if on_gpu else kernel).Kernel(chain)

    @property
    def layout(self) -> torch.memory_format:
        """Of the maps; no attribute, since a memory format cannot be pickled."""
        return torch.contiguous_format if "NCHW" in self.path else torch.channels_last

    def _kernel_or_false(self):
        try:
            return self._make_kernel(self._chain())
        except KernelUnavailable as error:
            warnings.warn(f"FusedConv goes on layer by layer: {error}", stacklevel=4)
        except (ValueError, RuntimeError):
            pass  # no chain any more, a dtype that is not covered, weights without memory
        return False

    def train(self, mode: bool = True) -> "FusedConv":
        """Stays in evaluation mode: there is nothing to train here."""
        return super().train(False)

    def _apply(self, fn, recurse=True):
        result = super()._apply(fn, recurse)
        self._made = None  # it writes through .data
        return result

    def _load_from_state_dict(self, *args, **kwargs):
        self._made = None  # weights made in inference mode do not tell
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self):
        return self.__dict__ | {"_made": None}  # pointers cannot be copied or pickled

    def extra_repr(self) -> str:
        return f"path={self.path!r}"


def plain_batch(x: Tensor) -> bool:
    """Whether x is a batch whose memory may be handed to the kernel."""
    return (
        not _traced()
        and (type(x) is Tensor or type(x) is nn.Parameter)
        and x.ndim == 4
        and (x.is_cpu or x.is_cuda)
        and x.layout is torch.strided
        and not x.is_neg()
        and not (x.requires_grad and torch.is_grad_enabled())
        and unpack_dual(x).tangent is None
        and not torch.is_autocast_enabled("cpu" if x.is_cpu else "cuda")
    )


def _traced() -> bool:
    return is_compiling() or is_tracing()
