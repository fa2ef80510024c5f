"""What the systems share that rebuild images: no teacher, and images as numbers that a network can give back."""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from rkd_pipeline.detectors import System
from rkd_pipeline.device import upload
from rkd_pipeline.models.frozen import NoTeacher
from rkd_pipeline.models.weights import TeacherWeights
from rkd_pipeline.recipes.recipe import Recipe

R = TypeVar("R", bound=Recipe)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow turns colours into grey


class WithoutTeacher(System[R, NoTeacher]):
    """A system that learns from the normal images alone."""

    def teacher(self, weights: TeacherWeights, recipe: R) -> NoTeacher:
        """None."""
        return NoTeacher()


def colour(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 ``(N, S, S, 3)`` as float32 ``(N, 3, S, S)`` in [0, 1]."""
    return upload(images, device).permute(0, 3, 1, 2).float() / 255


def grey(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 ``(N, S, S, 3)`` as brightness, float32 ``(N, 1, S, S)`` in [0, 1]."""
    weights = upload(torch.tensor(_LUMA), device).view(1, 3, 1, 1)
    return (colour(images, device) * weights).sum(1, keepdim=True)
