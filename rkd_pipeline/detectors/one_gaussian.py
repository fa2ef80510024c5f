"""One Gaussian for all positions of a feature map (the first stage of Sabokrou et al. 2018), Mahalanobis distance."""

import torch
from torch import Tensor

from rkd_pipeline.detectors.patch_features import PatchDetector, PatchFeatures, PatchSystem
from rkd_pipeline.detectors.scatter import ScatterOfPatches
from rkd_pipeline.recipes.patch_recipes import OneGaussian
from rkd_pipeline.training.task import FittingTask, TaskInputs


class OneGaussianTask(FittingTask):
    """Mean and covariance over all positions of all training images."""

    def __init__(self, recipe: OneGaussian, features: PatchFeatures, given: TaskInputs) -> None:
        self._recipe, self._features, self._given, self.notes = recipe, features, given, {}

    def fit(self) -> dict[str, Tensor]:
        """``mean (D,)`` and ``whitening (D, D)``, lower triangular, with ``W C W^T = 1``."""
        found = ScatterOfPatches.of(self._features.of_all(self._given))
        covariance = found.covariance
        covariance.diagonal().add_(self._recipe.ridge * covariance.diagonal().mean())
        factor = torch.linalg.cholesky(covariance)
        unit = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        whitening = torch.linalg.solve_triangular(factor, unit, upper=False)
        return {"mean": found.mean.float(), "whitening": whitening.float()}


class OneGaussianDetector(PatchDetector):
    """Mean, and what whitens the covariance."""

    def __init__(
        self, recipe: OneGaussian, features: PatchFeatures, state: dict[str, Tensor], device: torch.device
    ) -> None:
        super().__init__(recipe, features, device)
        self._mean, self._whitening = state["mean"].to(device), state["whitening"].to(device)

    def distances(self, described: Tensor) -> Tensor:
        """Mahalanobis distance."""
        return ((described - self._mean) @ self._whitening.T).square().sum(-1).sqrt()


SYSTEM = PatchSystem(OneGaussianTask, OneGaussianDetector)
