"""The feature dictionary (Napoletano et al. 2018): k-means of normal patches, and the distance from its centres."""

import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch import Tensor

from rkd_pipeline.detectors.patch_features import PatchDetector, PatchFeatures, PatchSystem
from rkd_pipeline.recipes.patch_recipes import FeatureDictionary
from rkd_pipeline.training.task import FittingTask, TaskInputs


class FeatureDictionaryTask(FittingTask):
    """PCA of the training patches, then k-means, both scikit-learn's."""

    def __init__(self, recipe: FeatureDictionary, features: PatchFeatures, given: TaskInputs) -> None:
        self._recipe, self._features, self._given, self.notes = recipe, features, given, {}

    def fit(self) -> dict[str, Tensor]:
        """``mean (D,)`` and ``directions (k, D)`` of PCA, and ``centres (c, k)`` in its coordinates."""
        recipe = self._recipe
        rows = self._features.drawn(self._given, recipe.patches_at_most).cpu().numpy()
        pca = PCA(recipe.explained, svd_solver="full").fit(rows)
        found = KMeans(min(recipe.centres, len(rows)), random_state=self._given.seed, n_init=3).fit(pca.transform(rows))
        self.notes |= {"dictionary": f"{len(found.cluster_centers_)} centres in {pca.n_components_} dimensions"}
        state = {"mean": pca.mean_, "directions": pca.components_, "centres": found.cluster_centers_}
        return {name: torch.from_numpy(values).float() for name, values in state.items()}


class FeatureDictionaryDetector(PatchDetector):
    """PCA and centres."""

    recipe: FeatureDictionary

    def __init__(
        self, recipe: FeatureDictionary, features: PatchFeatures, state: dict[str, Tensor], device: torch.device
    ) -> None:
        super().__init__(recipe, features, device)
        self._mean, self._directions, self._centres = (state[k].to(device) for k in ("mean", "directions", "centres"))

    def distances(self, described: Tensor) -> Tensor:
        """Mean Euclidean distance to the nearest centres."""
        coordinates = (described - self._mean) @ self._directions.T
        each = (coordinates[..., None, :] - self._centres).square().sum(-1).sqrt()
        return each.topk(min(self.recipe.nearest, len(self._centres)), largest=False).values.mean(-1)


SYSTEM = PatchSystem(FeatureDictionaryTask, FeatureDictionaryDetector)
