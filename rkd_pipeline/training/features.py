"""Teacher features of a fixed set of pictures.

Nothing is augmented and the teacher is frozen, so a picture's features never change. They are computed once and kept
within a memory budget, in channels_last; beyond the budget each step recomputes them.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rkd_pipeline.data.rows import Pictures
from rkd_pipeline.device import Compute

EVALUATION_BATCH = 32


class Featuriser(Protocol):
    """A frozen network whose features at several scales are distilled."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each scale, finest first."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the picture per position of each scale."""

    def __call__(self, pictures: Tensor) -> list[Tensor]:
        """Features of uint8 pictures ``(N, H, W, 3)``, finest scale first, without gradients."""


class FeatureSource:
    """Teacher features of a fixed set of pictures, kept where the budget allows.

    Args:
        teacher: on the device of ``compute``; says how many channels its scales have, and their strides.
        pictures: uint8, ``(N, H, W, 3)``, in memory or on disk.
        compute: device, precision and budget. Where training runs in bfloat16, kept features are bfloat16 too.
    """

    def __init__(self, teacher: Featuriser, pictures: Pictures, compute: Compute) -> None:
        self._teacher, self._pictures, self._compute = teacher, pictures, compute
        self._dtype = torch.bfloat16 if compute.bf16 else torch.float32
        self._kept: list[Tensor] | None = None
        if self._bytes_needed() <= compute.feature_budget:
            self._kept = self._compute_all()

    @classmethod
    def within_one_budget(
        cls, teacher: Featuriser, pictures: Pictures, held_out: Pictures | None, compute: Compute
    ) -> "tuple[FeatureSource, FeatureSource | None]":
        """Sources of the training images and of the held-out ones (None: there are none), which share the budget.

        The training images come first; the held-out ones may take what is left.
        """
        training = cls(teacher, pictures, compute)
        if held_out is None:
            return training, None
        left = replace(compute, feature_budget=compute.feature_budget - training.bytes_kept)
        return training, cls(teacher, held_out, left)

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def kept(self) -> bool:
        """All features are in memory."""
        return self._kept is not None

    @property
    def bytes_kept(self) -> int:
        """Memory that the kept features take; 0 where they are recomputed."""
        return sum(f.nbytes for f in self._kept or ())

    def batch(self, indices: Tensor) -> list[Tensor]:
        """Features of the pictures at ``indices``, a map per scale, in channels_last on the device."""
        if self._kept is not None:
            where = indices.to(self._compute.device)
            return [f[where].permute(0, 3, 1, 2) for f in self._kept]
        return self._features(self._pictures[indices.numpy()])

    def in_order(self, batch_size: int) -> Iterator[list[Tensor]]:
        """Batches of features in the pictures' order."""
        for indices in torch.arange(len(self)).split(batch_size):
            yield self.batch(indices)

    def _bytes_needed(self) -> int:
        _, height, width, _ = self._pictures.shape
        shapes = zip(self._teacher.channels, self._teacher.strides, strict=True)
        values = sum(c * (height // s) * (width // s) for c, s in shapes)
        return len(self) * values * self._dtype.itemsize

    def _features(self, pictures: np.ndarray) -> list[Tensor]:
        on_device = torch.from_numpy(np.ascontiguousarray(pictures)).to(self._compute.device)
        return [f.to(self._dtype) for f in self._teacher(on_device)]

    def _compute_all(self) -> list[Tensor]:
        """All features as ``(N, H, W, C)``, where a gathered batch is channels_last without a copy."""
        kept: list[Tensor] = []
        for start in range(0, len(self), EVALUATION_BATCH):
            stop = min(start + EVALUATION_BATCH, len(self))
            features = [f.permute(0, 2, 3, 1) for f in self._features(self._pictures[start:stop])]
            if not kept:
                kept = [f.new_empty((len(self), *f.shape[1:])) for f in features]
            for whole, part in zip(kept, features, strict=True):
                whole[start:stop] = part
        return kept
