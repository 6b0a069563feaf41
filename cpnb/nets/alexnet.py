"""AlexNet as the paper used it, and a small one with the same conv2 that a laptop can train.

Lebedev et al. (ICLR 2015) accelerate conv2 of Caffe's AlexNet: 5×5, two groups of 48 → 128 maps, on
27×27 positions 223,948,800 multiplies. torchvision's AlexNet is another network, without groups;
:func:`cpnb.decompose` takes either.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpnb.data.images import IMAGENET_MEAN, IMAGENET_STD
from cpnb.layers.plain import plain
from cpnb.nets.weights import load_shipped, load_weights, names_in
from cpnb.runs.places import shipped

CAFFE_MEAN = (104.0, 117.0, 123.0)  # blue, green, red, of 255: ImageNet's, in Caffe's nets
SMALL_WEIGHTS = shipped("data/alexnet-cifar10.safetensors")


class AlexNet(nn.Sequential):
    """Caffe's AlexNet: (N, 3, 227, 227) → (N, num_classes) logits.

    Local response normalisation after conv1 and conv2, two groups in conv2, conv4 and conv5. Layers
    are named as in Caffe (conv1 … conv5, fc6 … fc8). Caffe's published weights expect BGR values
    of 0 to 255 less ImageNet's mean.
    """

    def __init__(self, num_classes: int = 1000):
        def norm():
            return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)

        def pool():
            return nn.MaxPool2d(3, 2, ceil_mode=True)  # Caffe rounds up

        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(3, 96, 11, stride=4), relu1=nn.ReLU(), norm1=norm(), pool1=pool(),
                conv2=nn.Conv2d(96, 256, 5, padding=2, groups=2), relu2=nn.ReLU(), norm2=norm(),
                pool2=pool(),
                conv3=nn.Conv2d(256, 384, 3, padding=1), relu3=nn.ReLU(),
                conv4=nn.Conv2d(384, 384, 3, padding=1, groups=2), relu4=nn.ReLU(),
                conv5=nn.Conv2d(384, 256, 3, padding=1, groups=2), relu5=nn.ReLU(), pool5=pool(),
                flatten=nn.Flatten(),
                fc6=nn.Linear(9216, 4096), relu6=nn.ReLU(), drop6=nn.Dropout(),
                fc7=nn.Linear(4096, 4096), relu7=nn.ReLU(), drop7=nn.Dropout(),
                fc8=nn.Linear(4096, num_classes),
            )
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        _check_input("AlexNet", x, 227)
        return super().forward(x)


class SmallAlexNet(nn.Sequential):
    """AlexNet's conv2 in a net for CIFAR-10: (N, 3, 32, 32) → (N, 10) logits.

    =====  ======  ==================  ======  ====================
    layer  kernel  maps in, out        output  multiplies per image
    =====  ======  ==================  ======  ====================
    conv1  3×3     3, 96               32×32   2,654,208
    conv2  5×5     96, 256 in 2 groups  8×8    19,660,800
    conv3  3×3     256, 256            4×4     9,437,184
    fc     –       4096, 10            –       40,960
    =====  ======  ==================  ======  ====================

    Batch normalisation takes the place of AlexNet's local response normalisation, without which a
    dozen epochs would not do.
    """

    def __init__(self, num_classes: int = 10, dropout: float = 0.3):
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(3, 96, 3, padding=1),
                pool1=nn.MaxPool2d(4), norm1=nn.BatchNorm2d(96), relu1=nn.ReLU(),
                conv2=nn.Conv2d(96, 256, 5, padding=2, groups=2),
                pool2=nn.MaxPool2d(2), norm2=nn.BatchNorm2d(256), relu2=nn.ReLU(),
                conv3=nn.Conv2d(256, 256, 3, padding=1), norm3=nn.BatchNorm2d(256), relu3=nn.ReLU(),
                flatten=nn.Flatten(), dropout=nn.Dropout(dropout), fc=nn.Linear(4096, num_classes),
            )
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        _check_input("SmallAlexNet", x, 32)
        return super().forward(x)


def load_alexnet(path, num_classes: int = 1000) -> AlexNet:
    """Caffe's AlexNet with the weights of a safetensors file, in evaluation mode.

    The file's names are those of the layers: ``conv1.weight`` (96, 3, 11, 11), ``conv1.bias``, …,
    ``fc8.bias``.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    CheckpointError
        The file is damaged, or of another network: every key that is missing, left over, or of
        another shape is listed.
    """
    model = AlexNet(num_classes)
    load_weights(model, path)
    return model.eval()


def load_small_alexnet(path=None) -> SmallAlexNet:
    """The trained `SmallAlexNet`, in evaluation mode; by default the one that ships in `data/`.

    Errors are those of :func:`load_alexnet`.
    """
    return load_shipped(SmallAlexNet(), path, SMALL_WEIGHTS, "data/train_alexnet.py trains one")


class CaffeInput(nn.Module):
    """Images as torchvision's nets take them, (N, 3, H, W), as those that Caffe's AlexNet takes.

    Red, green, blue of zero mean and unit deviation become blue, green, red of 0 to 255 less
    Caffe's mean, and 227×227 pixels. It has no parameters.
    """

    def forward(self, x: Tensor) -> Tensor:
        def column(values):
            return x.new_tensor(values).view(1, 3, 1, 1)

        colours = 255 * (x * column(IMAGENET_STD) + column(IMAGENET_MEAN))
        images = colours.flip(1) - column(CAFFE_MEAN)
        if images.shape[-2:] == (227, 227):
            return images
        return F.interpolate(images, (227, 227), mode="bilinear")


def open_alexnet(weights=None) -> tuple[nn.Module, str]:
    """An AlexNet in evaluation mode, and the name of its conv2.

    Parameters
    ----------
    weights : path-like or "torchvision", optional
        By default the small one that ships, for CIFAR-10. "torchvision": its AlexNet, whose
        ImageNet weights it downloads. A safetensors file: of the small one, of torchvision's or of
        Caffe's, whichever layers it names. Caffe's net comes behind :class:`CaffeInput`, so that
        both large ones take (N, 3, 224, 224) as :func:`cpnb.load_dataset` gives ImageNet.

    Raises
    ------
    FileNotFoundError, CheckpointError
        As :func:`load_alexnet`.
    """
    named = [] if weights in (None, "torchvision") else names_in(weights)
    if weights is None or "fc.weight" in named:
        return load_small_alexnet(weights), "conv2"
    if weights == "torchvision" or "features.0.weight" in named:
        from torchvision.models import alexnet  # here: it takes a second to import

        model = alexnet(weights=None if named else "DEFAULT")
        if named:
            load_weights(model, weights)
        return model.eval(), "features.3"
    parts = OrderedDict(prepare=CaffeInput(), net=load_alexnet(weights))
    return nn.Sequential(parts).eval(), "net.conv2"


@torch.no_grad()
def block_diagonal(conv: nn.Conv2d) -> nn.Conv2d:
    """A grouped convolution as an ungrouped one, its kernel full of zeros off the diagonal blocks.

    The authors' public code decomposes this kernel (T, S, d, d). Its terms then have to serve all
    groups at once: R of them cost R(S + 2d + T) multiplies a position, about as many as R terms
    for *each* of the groups, R(S + 2d·groups + T).
    """
    conv = plain(conv)
    t, s = conv.out_channels // conv.groups, conv.in_channels // conv.groups
    options = {
        name: getattr(conv, name) for name in ("stride", "padding", "dilation", "padding_mode")
    }
    dense = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, bias=conv.bias is not None,
        device=conv.weight.device, dtype=conv.weight.dtype, **options,
    )  # fmt: skip
    dense.weight.zero_()
    for g, kernel in enumerate(conv.weight.chunk(conv.groups)):
        dense.weight[g * t : (g + 1) * t, g * s : (g + 1) * s] = kernel
    if conv.bias is not None:
        dense.bias.copy_(conv.bias)
    return dense.train(conv.training)


def block_diagonal_rank(conv: nn.Conv2d, rank: int) -> int:
    """The largest rank of :func:`block_diagonal` that costs no more than ``rank`` in each group.

    Multiplies a position, at unit stride: R(S + (d_y + d_x)·groups + T) for the groups.
    """
    ends, line = conv.in_channels + conv.out_channels, sum(conv.kernel_size)
    return rank * (ends + line * conv.groups) // (ends + line)


def _check_input(name: str, x: Tensor, size: int) -> None:
    if x.ndim != 4 or x.shape[1:] != (3, size, size):
        raise ValueError(
            f"{name} takes a tensor (N, 3, {size}, {size}), got shape {tuple(x.shape)}"
        )
