"""SubspaceAD (2026): how far a patch is from the principal subspace of normal patches."""

import torch
from torch import Tensor

from rkd_pipeline.detectors.patch_features import PatchDetector, PatchFeatures, PatchSystem
from rkd_pipeline.detectors.scatter import ScatterOfPatches
from rkd_pipeline.recipes.patch_recipes import SubspaceAD
from rkd_pipeline.training.task import FittingTask, TaskInputs


class SubspaceTask(FittingTask):
    """Principal components of all training patches."""

    def __init__(self, recipe: SubspaceAD, features: PatchFeatures, given: TaskInputs) -> None:
        self._recipe, self._features, self._given, self.notes = recipe, features, given, {}

    def fit(self) -> dict[str, Tensor]:
        """``mean (D,)`` and ``directions (k, D)``, orthonormal, the fewest that explain the recipe's share."""
        found = ScatterOfPatches.of(self._features.of_all(self._given))
        directions = principal_directions(found.covariance, self._recipe.explained)
        self.notes |= {"subspace": f"{len(directions)} of {self._features.channels} dimensions"}
        return {"mean": found.mean.float(), "directions": directions.float()}


def principal_directions(covariance: Tensor, explained: float) -> Tensor:
    """The fewest principal directions that explain a share of the variance, most important first: ``(k, D)``."""
    variances, vectors = torch.linalg.eigh(covariance)
    shares = variances.flip(0).clamp_min(0).cumsum(0) / variances.clamp_min(0).sum()
    count = int((shares < explained).sum()) + 1
    return vectors.flip(1)[:, :count].T.contiguous()


class SubspaceDetector(PatchDetector):
    """Mean and principal directions."""

    recipe: SubspaceAD

    def __init__(
        self, recipe: SubspaceAD, features: PatchFeatures, state: dict[str, Tensor], device: torch.device
    ) -> None:
        super().__init__(recipe, features, device)
        self._mean, self._directions = state["mean"].to(device), state["directions"].to(device)

    def distances(self, described: Tensor) -> Tensor:
        """Length of what the subspace leaves of a patch, or its square."""
        centred = described - self._mean
        squares = (centred - centred @ self._directions.T @ self._directions).square().sum(-1)
        return squares if self.recipe.squared else squares.sqrt()


SYSTEM = PatchSystem(SubspaceTask, SubspaceDetector)
