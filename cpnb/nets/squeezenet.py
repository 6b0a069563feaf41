"""SqueezeNet 1.1 with ImageNet weights from a local file: CP without fine-tuning on real images.

The paper's ImageNet results are of AlexNet, after fine-tuning on a million images. Where only a
sample of ImageNet is at hand, a network with real weights can still tell what a decomposition alone
costs. SqueezeNet spends most of its multiplies in the 3×3 "expand" layers of its fire modules.
"""

from torch import nn

from cpnb.data.characters import data_root
from cpnb.nets.weights import load_weights


def load_squeezenet(path=None) -> nn.Module:
    """torchvision's SqueezeNet 1.1, (N, 3, 224, 224) → (N, 1000) logits, in evaluation mode.

    Parameters
    ----------
    path : path-like, optional
        A safetensors file with torchvision's names; by default ``squeezenet1_1.safetensors`` where
        data sets lie, see :func:`cpnb.load_dataset`.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    CheckpointError
        The file is damaged or of another network; mismatching keys are listed.
    """
    from torchvision.models import squeezenet1_1  # here: it takes a second to import

    path = data_root() / "squeezenet1_1.safetensors" if path is None else path
    model = squeezenet1_1()
    load_weights(model, path)
    return model.eval()


def expand_layers(model: nn.Module) -> list[str]:
    """Names of the 3×3 expand layers, from the first fire module to the last."""
    return [name for name, _ in model.named_modules() if name.endswith("expand3x3")]


def rank_for(conv: nn.Conv2d, factor: float, scheme: str = "cp") -> int:
    """The largest rank of each group at which a layer needs ``factor`` times fewer multiplies.

    At unit stride, a position takes R(S + d_y + d_x + T) by CP, or K(S d_y + T d_x) by scheme 2 of
    Jaderberg et al. ("jaderberg"), in place of S T d_y d_x; S and T being a group's maps.
    """
    s, t = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    dy, dx = conv.kernel_size
    costs = {"cp": s + dy + dx + t, "jaderberg": s * dy + t * dx}
    if scheme not in costs:
        raise ValueError(f"scheme must be one of {', '.join(costs)}, got {scheme!r}")
    rank = int(s * t * dy * dx / (factor * costs[scheme]))
    if not factor > 0 or rank < 1:
        raise ValueError(
            f"no rank of at least 1 makes a {s}→{t} layer with a {dy}×{dx} kernel {factor} times "
            "cheaper"
        )
    return rank
