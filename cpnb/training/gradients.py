"""Gradients, in whatever mode the caller is and tensors were made.

In `torch.inference_mode` PyTorch records nothing, and what is made in it can never be trained.
"""

from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def gradients():
    """Gradients are taken within the block."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def require_trainable(model: nn.Module, name: str = "model") -> None:
    """Raise if a tensor of the model was made in inference mode: PyTorch cannot train it."""
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_inference():
            raise ValueError(
                f"{name} has tensors made in torch.inference_mode ({key}), which cannot be "
                f"trained; give copy.deepcopy({name}), made outside of that mode"
            )


def recordable(tensor: Tensor) -> Tensor:
    """A tensor that autograd takes: one made in inference mode is copied."""
    return tensor.clone() if tensor.is_inference() else tensor
