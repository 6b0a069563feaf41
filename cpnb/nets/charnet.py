"""The networks of the paper: CharNet, the 36-class character classifier.

CharNet comes from Jaderberg et al. (ECCV 2014): four valid convolutions, each followed by a maxout
over groups of consecutive channels, no pooling. Lebedev et al. (arXiv 1412.6553) accelerate it.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from cpnb.nets.weights import load_shipped
from cpnb.runs.places import shipped

CHARNET_WEIGHTS = shipped("data/charnet.safetensors")


def _maxout(x: Tensor, groups: int) -> Tensor:
    # Slices keep channels_last, where a reduction over neighbours would return NCHW.
    best = x[:, ::groups]
    for i in range(1, groups):
        best = torch.maximum(best, x[:, i::groups])
    return best


class _MaxoutInTraining(torch.autograd.Function):
    """Maxout whose gradient goes to the winner of each group (to all winners of a tie)."""

    @staticmethod
    def forward(ctx, x: Tensor, groups: int) -> Tensor:
        best = _maxout(x, groups)
        ctx.groups = groups
        ctx.save_for_backward(x, best)
        return best

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        x, best = ctx.saved_tensors
        result = torch.empty_like(x)
        for i in range(ctx.groups):
            torch.mul(grad, x[:, i :: ctx.groups] == best, out=result[:, i :: ctx.groups])
        return result, None


class Maxout(nn.Module):
    """Maximum over groups of consecutive channels: (N, C, H, W) -> (N, C / groups, H, W).

    Parameters
    ----------
    groups : int
        How many consecutive channels compete for one output channel; must divide C.
    """

    def __init__(self, groups: int):
        super().__init__()
        if not isinstance(groups, int) or groups < 1:
            raise ValueError(f"groups must be an integer of at least 1, got {groups!r}")
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % self.groups:
            raise ValueError(
                f"Maxout({self.groups}) needs a number of channels divisible by {self.groups}, "
                f"got an input of shape {tuple(x.shape)}"
            )
        # The plain form serves export; its backward pass takes three times as long.
        return _MaxoutInTraining.apply(x, self.groups) if self.training else _maxout(x, self.groups)

    def extra_repr(self) -> str:
        return str(self.groups)


class CharNet(nn.Sequential):
    """The character classifier: 24x24 grey patches to 36 characters and a background class.

    =====  ======  ============================  ==========  ====================
    layer  kernel  maps in, filters, maps out    output      multiplies per patch
    =====  ======  ============================  ==========  ====================
    conv1  9x9     1, 96, 48 after maxout of 2   16x16       1,990,656
    conv2  9x9     48, 128, 64 after maxout of 2  8x8        31,850,496
    conv3  8x8     64, 512, 128 after maxout of 4  1x1       2,097,152
    conv4  1x1     128, 148, 37 after maxout of 4  1x1       18,944
    =====  ======  ============================  ==========  ====================

    The input is (N, 1, H, W), every patch normalised to zero mean and unit standard deviation. The
    output is (N, num_classes) logits for 24x24 patches, and a map (N, num_classes, H-23, W-23) for
    larger images, over which the net slides densely.

    Parameters
    ----------
    num_classes : int
        Outputs: by default 0-9, A-Z and, last, the background.
    dropout : float
        Probability of dropping each value between layers while training. It has no parameters, so
        weights trained with and without it are interchangeable.
    """

    def __init__(self, num_classes: int = 37, dropout: float = 0.0):
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes must be an integer of at least 1, got {num_classes!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout!r}")
        shapes = [(1, 96, 9, 2), (48, 128, 9, 2), (64, 512, 8, 4), (128, 4 * num_classes, 1, 4)]
        parts = OrderedDict()
        for i, (channels, filters, size, groups) in enumerate(shapes, start=1):
            parts[f"conv{i}"] = nn.Conv2d(channels, filters, size)
            parts[f"maxout{i}"] = Maxout(groups)
            if dropout and i < len(shapes):
                parts[f"dropout{i}"] = nn.Dropout(dropout)
        super().__init__(parts)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights, scaled so that the signal keeps its size from layer to layer.

        The reasoning is He's (2015) for ReLU, applied to maxout: the mean square of the larger of
        two standard normal values is 1 (of four 1.55), so the variance is 1 / fan_in, not 2.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != 1 or min(x.shape[2:]) < 24:
            raise ValueError(
                "CharNet takes a tensor (N, 1, H, W) with H and W of at least 24, "
                f"got shape {tuple(x.shape)}"
            )
        maps = super().forward(x)
        return maps.flatten(1) if maps.shape[2:] == (1, 1) else maps


def load_charnet(path=None) -> CharNet:
    """The trained CharNet, in evaluation mode.

    Parameters
    ----------
    path : path-like, optional
        A file of weights written by `save_weights`; by default the one that ships in `data/`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If the file is damaged or holds the weights of another network.
    """
    how = "notebooks/02_train_charnet.ipynb trains one"
    return load_shipped(CharNet(), path, CHARNET_WEIGHTS, how)
