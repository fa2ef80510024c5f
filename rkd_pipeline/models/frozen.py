"""What every teacher has in common."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

# torchvision's ImageNet preprocessing, on images scaled to [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class NoTeacher(nn.Module):
    """Stands where the teacher would, for systems that have none."""


class Frozen(nn.Module):
    """A network that describes images and never learns: always in eval mode, its weights without gradients."""

    mean: Tensor
    std: Tensor

    @property
    def made_with(self) -> dict[str, str]:
        """Libraries that compute the features besides torch and torchvision, and their versions: for provenance."""
        return {}

    def freeze(self, mean: Sequence[float], std: Sequence[float], scale: float) -> None:
        """At the end of ``__init__``: stop learning, and keep what images are normalised by, times ``scale``."""
        self.register_buffer("mean", scale * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", scale * torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Self:
        """Does nothing: BatchNorm must keep its statistics."""
        return self
