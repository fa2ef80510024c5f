"""One-class classifiers of scikit-learn on a network's features of the whole image: image scores alone.

A one-class SVM (Andrews et al. 2016), an isolation forest or a local outlier factor (Burlina et al. 2019). What is
stored are the training images' features: none of the classifiers has a form without pickle, and fitting one again takes
less time than reading an image does, for as many images as the benchmark has.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import OneClassSVM
from torch import Tensor

from rkd_pipeline.data.rows import Images
from rkd_pipeline.detectors import Detector, System
from rkd_pipeline.detectors.anomaly_map import Scores
from rkd_pipeline.device import place
from rkd_pipeline.models.backbone import Backbone, backbone
from rkd_pipeline.models.weights import TeacherWeights
from rkd_pipeline.progress import batches
from rkd_pipeline.recipes.patch_recipes import DeepOneClass
from rkd_pipeline.training.task import FittingTask, TaskInputs

CLASSIFIERS: dict[str, Callable[[int, int], Any]] = {
    "one_class_svm": lambda images, seed: OneClassSVM(),
    "isolation_forest": lambda images, seed: IsolationForest(random_state=seed),
    "local_outlier_factor": lambda images, seed: LocalOutlierFactor(min(20, images - 1), novelty=True),
}


def described(network: Backbone, images: Images, device: torch.device, batch_size: int = 32) -> Tensor:
    """The last scale's features of uint8 images, averaged over positions: float32 ``(N, C)``, on the CPU."""
    found = []
    for start in batches(len(images), batch_size, "features of the teacher"):
        batch = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size])).to(device)
        found.append(network(batch)[-1].mean((2, 3)).cpu())
    return torch.cat(found)


class DeepOneClassTask(FittingTask):
    """Features of the training images, and what standardises them."""

    def __init__(self, network: Backbone, given: TaskInputs) -> None:
        self._network, self._given, self.notes = network, given, dict(network.made_with)

    def fit(self) -> dict[str, Tensor]:
        """``features (N, C)``, standardised, ``mean (C,)``, ``deviation (C,)`` and ``seed ()``."""
        features = described(self._network, self._given.images, self._given.compute.device)
        mean, deviation = features.mean(0), features.std(0, correction=0)
        deviation[deviation == 0] = 1  # a feature that never changes says nothing
        seed = torch.tensor(self._given.seed)
        return {"features": (features - mean) / deviation, "mean": mean, "deviation": deviation, "seed": seed}


class DeepOneClassDetector(Detector):
    """The network, and a classifier fitted to the training images' features."""

    def __init__(self, recipe: DeepOneClass, network: Backbone, state: dict[str, Tensor], device: torch.device) -> None:
        self._network, self._device, self._state = network, device, state
        features = state["features"].numpy().astype(np.float64)
        self._classifier = CLASSIFIERS[recipe.classifier](len(features), int(state["seed"])).fit(features)

    @torch.inference_mode()
    def score(self, images: Images, *, batch_size: int = 32) -> Scores:
        """The classifier's decision function, negated: above 0 outside of what it takes for normal."""
        features = described(self._network, images, self._device, batch_size)
        rows = (features - self._state["mean"]) / self._state["deviation"]
        return Scores(None, {"image_score": -self._classifier.decision_function(rows.numpy().astype(np.float64))})


class _DeepOneClassSystem(System[DeepOneClass, Backbone]):
    def teacher(self, weights: TeacherWeights, recipe: DeepOneClass) -> Backbone:
        return backbone(weights)

    def task(self, recipe: DeepOneClass, teacher: Backbone, given: TaskInputs) -> DeepOneClassTask:
        return DeepOneClassTask(teacher, given)

    def detector(
        self, recipe: DeepOneClass, teacher: Backbone, state: dict[str, Tensor], lambda_: float, device: torch.device
    ) -> DeepOneClassDetector:
        return DeepOneClassDetector(recipe, place(teacher, device), state, device)


SYSTEM = _DeepOneClassSystem()
