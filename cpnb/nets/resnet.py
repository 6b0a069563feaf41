"""He et al.'s ResNets for CIFAR-10 (2016, section 4.2), with weights from a local file.

6n + 2 layers: a 3×3 convolution, then three stages of n residual blocks at 16, 32 and 64 maps. A
shortcut that changes size takes every second pixel and pads the maps with zeros (their option A),
so it has no weights.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpnb.data.characters import data_root
from cpnb.nets.weights import CheckpointError, load_weights, read_weights
from cpnb.runs.places import shipped

RESNET_WEIGHTS = shipped("data/resnet20-characters.safetensors")


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm, beside a shortcut without weights."""

    def __init__(self, maps_in: int, maps: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(maps_in, maps, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(maps)
        self.conv2 = nn.Conv2d(maps, maps, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(maps)
        self.stride, self.added = stride, maps - maps_in

    def forward(self, x: Tensor) -> Tensor:
        """(N, maps_in, H, W) → (N, maps, H/stride, W/stride)."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1 or self.added:
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return torch.relu(y + x)


class CifarResNet(nn.Module):
    """(N, in_channels, H, W) → (N, num_classes) logits; conv1, bn1, layer1 … layer3, linear.

    Parameters
    ----------
    depth : int
        6n + 2: 20, 32, 44, 56, …
    num_classes : int
    in_channels : int
        3, or 1 for grey images; their size does not matter.

    Raises
    ------
    ValueError
        If depth is not of that form.
    """

    def __init__(self, depth: int = 20, num_classes: int = 10, in_channels: int = 3):
        super().__init__()
        if not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth={depth!r}; accepted is 6n + 2, such as 20 or 56")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16, 32, blocks, 2)
        self.layer3 = _stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def _stage(maps_in: int, maps: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(maps_in, maps, stride)
    return nn.Sequential(first, *(BasicBlock(maps, maps, 1) for _ in range(blocks - 1)))


def load_cifar_resnet(depth: int = 20, path=None) -> CifarResNet:
    """A trained `CifarResNet` in evaluation mode, from a safetensors file.

    Parameters
    ----------
    depth : int
    path : path-like, optional
        Numbers of classes and of input channels are those of the file. By default
        ``cifar10-resnets/resnet{depth}.safetensors`` where data sets lie
        (:func:`cpnb.load_dataset`) or, where there is none and depth is 20, the ResNet-20 that
        ships: trained on 24×24 drawn characters, 37 classes.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    CheckpointError
        The file is damaged or of another network; mismatching keys are listed.
    """
    if path is None:
        path = data_root() / f"cifar10-resnets/resnet{depth}.safetensors"
        if depth == 20 and not path.is_file():
            path = RESNET_WEIGHTS
    tensors = read_weights(path)[0]
    ends = [tensors.get(key) for key in ("linear.weight", "conv1.weight")]
    if any(end is None for end in ends):
        raise CheckpointError(f"{path} holds no CifarResNet: conv1 or linear is missing")
    model = CifarResNet(depth, num_classes=len(ends[0]), in_channels=ends[1].shape[1])
    load_weights(model, path)
    return model.eval()
