"""Generator, discriminator and encoder of f-AnoGAN (Schlegl et al. 2019): the residual networks of its official code.

Grey images of 64 pixels in [-1, 1]. At the code's width of 64 the generator costs about 3.6 GFLOP an image, each of the
other two 3.3; a quarter of the width costs a sixteenth.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 64
_COARSE = 4  # side of the coarsest features
_DOWN, _UP = (1, 2, 4, 8, 8), (8, 8, 4, 2, 1)  # channels before and after each block, in widths
Norm = Callable[[int], nn.Module]


class ResidualBlock(nn.Module):
    """Two convolutions, each after normalisation and ReLU, beside a short cut; doubles the resolution or halves it.

    Weights of the 3x3 convolutions begin as He et al. (2015) draw them.
    """

    def __init__(self, channels: int, out: int, norm: Norm, *, up: bool) -> None:
        super().__init__()
        middle = out if up else channels
        self.up = up
        self.norm_first, self.norm_second = norm(channels), norm(middle)
        self.first = nn.Conv2d(channels, middle, 3, padding=1, bias=False)
        self.second = nn.Conv2d(middle, out, 3, padding=1)
        self.short = nn.Conv2d(channels, out, 1)
        for convolution in (self.first, self.second):
            nn.init.kaiming_uniform_(convolution.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, h, w)`` to ``(N, out, 2 h, 2 w)`` or ``(N, out, h / 2, w / 2)``."""
        y = F.relu(self.norm_first(x))
        if self.up:
            y = self.second(F.relu(self.norm_second(self.first(_doubled(y)))))
            return y + self.short(_doubled(x))
        y = self.second(F.relu(self.norm_second(self.first(y))))
        return F.avg_pool2d(y, 2) + self.short(F.avg_pool2d(x, 2))


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _layer_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(1, channels)  # over channels and positions, scaled channel by channel


class Generator(nn.Module):
    """Codes ``(N, latent)`` to images ``(N, 1, 64, 64)`` in [-1, 1]."""

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        widths = [k * width for k in _UP]
        self.layers = nn.Sequential(
            nn.Linear(latent, widths[0] * _COARSE**2), nn.Unflatten(1, (widths[0], _COARSE, _COARSE)),
            *(ResidualBlock(a, b, nn.BatchNorm2d, up=True) for a, b in pairwise(widths)),
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 1, 3, padding=1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, codes: Tensor) -> Tensor:
        """Generated images."""
        images: Tensor = self.layers(codes)
        return images


class Features(nn.Module):
    """Images ``(N, 1, 64, 64)`` to flat features ``(N, 128 * width)``."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        widths = [k * width for k in _DOWN]
        blocks = (ResidualBlock(a, b, norm, up=False) for a, b in pairwise(widths))
        self.layers = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), *blocks, nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        """What stands before the last layer of discriminator or encoder."""
        found: Tensor = self.layers(images)
        return found


class FAnoGANNetworks(nn.Module):
    """All three: what a training learns. Raises ``ValueError`` for another side than 64."""

    def __init__(self, side: int, width: int, latent: int) -> None:
        super().__init__()
        if side != SIDE:
            raise ValueError(f"the networks of f-AnoGAN are for images of {SIDE} pixels, not {side}")
        flat = _DOWN[-1] * width * _COARSE**2
        self.generator = Generator(width, latent)
        self.features, self.judge = Features(width, _layer_norm), nn.Linear(flat, 1)  # the discriminator
        self.encoder = nn.Sequential(Features(width, nn.BatchNorm2d), nn.Linear(flat, latent))

    def judged(self, images: Tensor) -> Tensor:
        """The discriminator's value of images, higher for real ones, without bounds: ``(N,)``."""
        values: Tensor = self.judge(self.features(images)).squeeze(1)
        return values

    def discriminator_learns(self, learns: bool) -> None:
        """Whether the discriminator's weights take gradients."""
        self.features.requires_grad_(learns)
        self.judge.requires_grad_(learns)

    def gradient_penalty(self, images: Tensor) -> Tensor:
        """Squared distance of the slope at each image from 1 (Gulrajani et al. 2017): ``(N,)``."""
        images = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.judged(images).sum(), images, create_graph=True)
        return (gradient.flatten(1).norm(dim=1) - 1).square()
