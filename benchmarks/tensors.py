"""The tensors that the CP solvers are compared on; imported, not run."""

from __future__ import annotations

import torch

import cpnb
from cpnb.cp.algebra import cp_to_tensor


def charnet(layer: str):
    return cpnb.get_convolution(cpnb.load_charnet(), layer).weight.detach()


def alexnet(group: int = 0) -> torch.Tensor:
    """A group of conv2, 48→128 and 5×5, of the small AlexNet that ships, trained on CIFAR-10.

    The weights of the large one, trained on ImageNet, are not ours to ship.
    """
    conv = cpnb.get_convolution(cpnb.load_small_alexnet(), "conv2")
    return conv.weight.detach().chunk(conv.groups)[group]


def kernel_like(*shape, seed=0) -> torch.Tensor:
    """Noise whose unfoldings have singular values falling like 1/√k, as trained kernels' do."""
    g = torch.Generator().manual_seed(seed)
    tensor = torch.randn(*shape, generator=g, dtype=torch.float64)
    for n, size in enumerate(shape):
        basis = torch.linalg.qr(torch.randn(size, size, generator=g, dtype=torch.float64))[0]
        scale = torch.arange(1, size + 1, dtype=torch.float64) ** -0.5
        tensor = torch.tensordot(basis * scale, tensor, dims=([1], [n])).movedim(0, n)
    return tensor


def normal(seed: int) -> torch.Tensor:
    """Independent normal entries: nothing that a low rank could find."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(20, 20, 20, 20, generator=g, dtype=torch.float64)


def collinear(seed: int, size=20, rank=16, cosine=0.9, order=4) -> torch.Tensor:
    """Exact rank 16; in every factor each pair of columns at a cosine of 0.9."""
    g = torch.Generator().manual_seed(seed)
    gram = torch.full((rank, rank), cosine, dtype=torch.float64).fill_diagonal_(1)
    root = torch.linalg.cholesky(gram).T
    bases = (torch.randn(size, rank, generator=g, dtype=torch.float64) for _ in range(order))
    return cp_to_tensor([torch.linalg.qr(basis)[0] @ root for basis in bases])


def matrix_multiplication(n=2) -> torch.Tensor:
    """⟨n, n, n⟩, of shape n²×n²×n²; for n = 2 its rank is 7 (Strassen, 1969)."""
    t = torch.zeros(n, n, n, n, n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            for k in range(n):
                t[i, j, j, k, k, i] = 1
    return t.reshape(n * n, n * n, n * n)


def border() -> torch.Tensor:
    """Rank 3, and a limit of tensors of rank 2 (de Silva & Lim, 2008)."""
    a, b = torch.eye(2, dtype=torch.float64)
    return sum(torch.einsum("i,j,k->ijk", *v) for v in ((a, a, b), (a, b, a), (b, a, a)))


# name: (tensor of a seed, rank, our seconds)
TENSORS = {
    "CharNet conv1": (lambda seed: charnet("conv1"), 16, 1.0),
    "CharNet conv2": (lambda seed: charnet("conv2"), 64, 1.5),
    "CharNet conv3": (lambda seed: charnet("conv3"), 64, 2.0),
    "small AlexNet conv2, R=140": (lambda seed: alexnet(), 140, 2.0),
    "small AlexNet conv2, R=200": (lambda seed: alexnet(), 200, 2.5),
    "small AlexNet conv2, R=300": (lambda seed: alexnet(), 300, 3.0),
    "3×3×256×384": (lambda seed: kernel_like(384, 256, 3, 3), 128, 2.0),
    "3×3×512×512": (lambda seed: kernel_like(512, 512, 3, 3), 512, 5.0),
    # Named before "normal" was there: its unfoldings decay as those of kernels do. Two seconds:
    # after half of one, plain NLS still falls steeply.
    "random 20×20×20×20": (lambda seed: kernel_like(20, 20, 20, 20, seed=seed), 20, 2.0),
    "normal 20×20×20×20": (normal, 20, 0.5),
    "collinear, exact rank 16": (collinear, 16, 0.3),
    "matrix multiplication ⟨2,2,2⟩": (lambda seed: matrix_multiplication(), 7, 0.3),
    "border rank 2": (lambda seed: border(), 2, 0.2),
}
QUICK = {"CharNet conv1": 0.3, "CharNet conv2": 0.4, "collinear, exact rank 16": 0.3}
