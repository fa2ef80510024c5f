"""PaDiM (Defard et al. 2021): a Gaussian of the features at every position, and the Mahalanobis distance from it.

What is stored is not the covariance but what whitens it: a distance is then a matrix product and a norm.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from rkd_pipeline.detectors.patch_features import PatchDetector, PatchFeatures, PatchSystem, require_memory
from rkd_pipeline.recipes.patch_recipes import PaDiM
from rkd_pipeline.training.task import FittingTask, TaskInputs

_POSITIONS_AT_ONCE = 256  # of which covariances are in double precision at a time


class PaDiMTask(FittingTask):
    """Means and covariances in one pass, merged batch by batch (Chan et al. 1983): no images' features are kept."""

    def __init__(self, recipe: PaDiM, features: PatchFeatures, given: TaskInputs) -> None:
        self._recipe, self._features, self._given, self.notes = recipe, features, given, {}

    def fit(self) -> dict[str, Tensor]:
        """``chosen (d,)``, ``mean (P, d)`` and ``whitening (P, d, d)``, lower triangular, of P positions."""
        chosen = drawn_features(self._features.channels, self._recipe.dimensions, self._given.seed)
        positions = (self._given.images.shape[1] // self._features.stride) ** 2
        needed = 3 * 4 * positions * len(chosen) ** 2
        require_memory(needed, f"covariances of {len(chosen)} features at {positions:,} positions, and room to add")
        chosen_there = chosen.to(self._given.compute.device)
        parts = (f[..., chosen_there].flatten(1, 2).transpose(0, 1) for f in self._features.of_all(self._given))
        count, mean, scatter = moments(parts)
        return {"chosen": chosen, "mean": mean, "whitening": whitening(scatter, count, self._recipe.ridge)}


def drawn_features(channels: int, dimensions: int, seed: int) -> Tensor:
    """Which features are kept, int64 ``(min(dimensions, channels),)``, sorted."""
    order = np.random.default_rng(seed).permutation(channels)[:dimensions]
    return torch.from_numpy(np.sort(order))


def moments(parts: Iterator[Tensor]) -> tuple[int, Tensor, Tensor]:
    """Number of images, means ``(P, d)`` and scatter ``(P, d, d)`` of parts ``(P, n, d)``.

    The scatter is the sum of products of differences from the mean; the covariance is that by ``count - 1``.
    """
    count, mean, scatter = 0, torch.zeros(()), torch.zeros(())
    for part in parts:
        n = part.shape[1]
        centre = part.mean(1)
        centred = part - centre[:, None]
        if count == 0:
            count, mean, scatter = n, centre, torch.bmm(centred.mT, centred)
            continue
        step = centre - mean
        shift = step * (count * n / (count + n)) ** 0.5
        scatter.baddbmm_(centred.mT, centred).baddbmm_(shift[:, :, None], shift[:, None, :])
        mean = mean + step * (n / (count + n))
        count += n
    return count, mean, scatter


def whitening(scatter: Tensor, count: int, ridge: float) -> Tensor:
    """W with ``W C W^T = 1`` of each covariance C plus ``ridge``, by the inverse of its Cholesky factor: ``(P, d, d)``.

    In double precision, some positions at a time: few images make the covariances nearly singular.
    """
    unit = torch.eye(scatter.shape[-1], dtype=torch.float64, device=scatter.device)
    for part in scatter.split(_POSITIONS_AT_ONCE):
        factor = torch.linalg.cholesky(part.double() / max(count - 1, 1) + ridge * unit)
        part.copy_(torch.linalg.solve_triangular(factor, unit.expand_as(factor), upper=False))
    return scatter


class PaDiMDetector(PatchDetector):
    """Gaussians at every position."""

    def __init__(self, recipe: PaDiM, features: PatchFeatures, state: dict[str, Tensor], device: torch.device) -> None:
        super().__init__(recipe, features, device)
        self._chosen, self._mean, self._whitening = (state[k].to(device) for k in ("chosen", "mean", "whitening"))

    def distances(self, described: Tensor) -> Tensor:
        """Mahalanobis distance at each position."""
        n, height, width, _ = described.shape
        centred = described[..., self._chosen].view(n, height * width, -1) - self._mean
        white = torch.bmm(self._whitening, centred.permute(1, 2, 0))  # (P, d, N)
        return white.square().sum(1).sqrt().T.reshape(n, height, width)


SYSTEM = PatchSystem(PaDiMTask, PaDiMDetector)
