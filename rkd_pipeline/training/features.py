"""Teacher features of a fixed set of images.

Nothing is augmented and the teacher is frozen, so an image's features never change. They are computed once and kept
within a memory budget, in channels_last; beyond the budget each step recomputes them.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rkd_pipeline.data.rows import Images
from rkd_pipeline.device import Compute, upload
from rkd_pipeline.progress import batches

EVALUATION_BATCH = 32


class Featuriser(Protocol):
    """A frozen network whose features at several scales are distilled."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each scale, finest first."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image per position of each scale."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Features of uint8 images ``(N, H, W, 3)``, finest scale first, without gradients."""


class FeatureSource:
    """Teacher features of a fixed set of images, kept where the budget allows.

    Args:
        teacher: on the device of ``compute``; says how many channels its scales have, and their strides.
        images: uint8, ``(N, H, W, 3)``, in memory or on disk.
        compute: device, precision and budget. Where training runs in bfloat16, kept features are bfloat16 too.
    """

    def __init__(self, teacher: Featuriser, images: Images, compute: Compute) -> None:
        self._teacher, self._images, self._compute = teacher, images, compute
        self._dtype = torch.bfloat16 if compute.bf16 else torch.float32
        self._kept: list[Tensor] | None = None
        if self._bytes_needed() <= compute.feature_budget:
            self._kept = self._compute_all()

    @classmethod
    def within_one_budget(
        cls, teacher: Featuriser, images: Images, held_out: Images | None, compute: Compute
    ) -> "tuple[FeatureSource, FeatureSource | None]":
        """Sources of the training images and of the held-out ones (None: there are none), which share the budget.

        The training images come first; the held-out ones may take what is left.
        """
        training = cls(teacher, images, compute)
        if held_out is None:
            return training, None
        left = replace(compute, feature_budget=compute.feature_budget - training.bytes_kept)
        return training, cls(teacher, held_out, left)

    def __len__(self) -> int:
        return len(self._images)

    @property
    def kept(self) -> bool:
        """All features are in memory."""
        return self._kept is not None

    @property
    def indices_on(self) -> torch.device:
        """Where a batch's indices are best: on the device with kept features, on the host with images."""
        return self._compute.device if self.kept else torch.device("cpu")

    @property
    def bytes_kept(self) -> int:
        """Memory that the kept features take; 0 where they are recomputed."""
        return sum(f.nbytes for f in self._kept or ())

    def batch(self, indices: Tensor) -> list[Tensor]:
        """Features of the images at ``indices``, a map per scale, in channels_last on the device."""
        if self._kept is not None:
            where = upload(indices, self._compute.device)
            return [f[where].permute(0, 3, 1, 2) for f in self._kept]
        return self._features(self._images[indices.numpy()])

    def in_order(self, batch_size: int) -> Iterator[list[Tensor]]:
        """Batches of features in the images' order."""
        for indices in torch.arange(len(self)).split(batch_size):
            yield self.batch(indices)

    def _bytes_needed(self) -> int:
        _, height, width, _ = self._images.shape
        shapes = zip(self._teacher.channels, self._teacher.strides, strict=True)
        values = sum(c * (height // s) * (width // s) for c, s in shapes)
        return len(self) * values * self._dtype.itemsize

    def _features(self, images: np.ndarray) -> list[Tensor]:
        return [f.to(self._dtype) for f in self._teacher(upload(images, self._compute.device))]

    def _compute_all(self) -> list[Tensor]:
        """All features as ``(N, H, W, C)``, where a gathered batch is channels_last without a copy."""
        kept: list[Tensor] = []
        for start in batches(len(self), EVALUATION_BATCH, "features of the teacher"):
            stop = min(start + EVALUATION_BATCH, len(self))
            features = [f.permute(0, 2, 3, 1) for f in self._features(self._images[start:stop])]
            if not kept:
                kept = [f.new_empty((len(self), *f.shape[1:])) for f in features]
            for whole, part in zip(kept, features, strict=True):
                whole[start:stop] = part
        return kept
