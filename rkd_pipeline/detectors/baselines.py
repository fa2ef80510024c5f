"""Anomaly maps without any training: what a method must beat before its numbers mean anything.

Each takes normal training images and test images, uint8 ``(N, S, S, 3)``, and returns float32 maps ``(N, S, S)``,
higher where more anomalous, smoothed as the methods' maps are. An image's score is the maximum of its map.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rkd_pipeline.detectors.anomaly_map import anomaly_map
from rkd_pipeline.models.teacher import Teacher

SIGMA = 4.0
_BATCH = 32


def pixel_deviation(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Distance of every pixel from the training mean at its place, in training standard deviations, over channels."""
    normal = train.astype(np.float32)
    mean, deviation = normal.mean(0), normal.std(0) + 1.0  # one grey level: a constant pixel has no deviation
    z = np.sqrt((((test - mean) / deviation) ** 2).mean(-1))
    return _smoothed(torch.from_numpy(z.astype(np.float32)), test.shape[1])


def nearest_colours(train: np.ndarray, test: np.ndarray, *, patch: int = 8, bank: int = 4000) -> np.ndarray:
    """Distance of every patch of colours to the nearest of ``bank`` training patches, drawn by a fixed seed.

    Patches are ``patch`` pixels wide, half overlapping, their pixels averaged two by two.
    """

    def patches(images: np.ndarray) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
        x = F.avg_pool2d(x, 2)
        rows = F.unfold(x, patch // 2, stride=patch // 4)
        side = (x.shape[-1] - patch // 2) // (patch // 4) + 1
        return rows.transpose(1, 2).reshape(len(images), side, side, -1)

    memory = _memory([patches(train[i : i + _BATCH]) for i in range(0, len(train), _BATCH)], bank)
    maps = [_distances(patches(test[i : i + _BATCH]), memory) for i in range(0, len(test), _BATCH)]
    return _smoothed(torch.cat(maps), test.shape[1])


def teacher_patches(teacher: Teacher, images: np.ndarray) -> Tensor:
    """What ``nearest_features`` compares: ``(N, S/8, S/8, C_2 + C_3)``.

    Blocks 2 and 3, averaged over 3 by 3 positions as in PatchCore (Roth et al. 2022), block 3 brought to the grid of
    block 2.
    """
    found = []
    for start in range(0, len(images), _BATCH):
        _, fine, coarse = teacher(torch.from_numpy(np.ascontiguousarray(images[start : start + _BATCH])))
        fine, coarse = (F.avg_pool2d(f, 3, stride=1, padding=1, count_include_pad=False) for f in (fine, coarse))
        coarse = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear")
        found.append(torch.cat([fine, coarse], 1).permute(0, 2, 3, 1))
    return torch.cat(found)


def nearest_features(
    train: Tensor, test: Tensor, side: int, *, channels: tuple[int, int], bank: int = 4000
) -> np.ndarray:
    """Distance of every place to the nearest of ``bank`` training places, from ``teacher_patches``.

    Each block is scaled to a mean squared norm of 1 in training, so that teachers of any scale compare alike.
    """
    scale = torch.cat(
        [1 / part.square().sum(-1).mean().sqrt().expand(part.shape[-1]) for part in train.split(channels, -1)]
    )
    memory = _memory([train * scale], bank)
    maps = [_distances(test[i : i + _BATCH] * scale, memory) for i in range(0, len(test), _BATCH)]
    return _smoothed(torch.cat(maps), side)


def _memory(parts: list[Tensor], bank: int) -> Tensor:
    rows = torch.cat([p.flatten(0, 2) for p in parts])
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:bank]
    return rows[chosen]


def _distances(places: Tensor, memory: Tensor) -> Tensor:
    """Euclidean distance of ``(N, h, w, D)`` to the nearest row of ``(M, D)``: ``(N, h, w)``."""
    nearest = [torch.cdist(p.flatten(0, 1), memory).amin(1).view(p.shape[:2]) for p in places]
    return torch.stack(nearest)


def _smoothed(maps: Tensor, side: int) -> np.ndarray:
    return torch.cat(list(_upsampled(maps, side))).numpy()


def _upsampled(maps: Tensor, side: int) -> Iterator[Tensor]:
    for part in maps.split(_BATCH):
        yield anomaly_map([part], side, sigma=SIGMA)
