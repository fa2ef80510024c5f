"""A trained model taken out of the store: a folder that scores images by itself.

Holds student and teacher as safetensors and ``scorer.json``; this is what MLflow keeps as a logged model.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import load_file

from rkd_pipeline.data.image_files import read_rgb, resized
from rkd_pipeline.detectors import system_of
from rkd_pipeline.detectors.model_card import ModelCard
from rkd_pipeline.models.weights import TeacherWeights
from rkd_pipeline.recipes.training_key import TrainingKey

STUDENT, TEACHER, CARD = "student.safetensors", "teacher.safetensors", "scorer.json"


@dataclass(frozen=True)
class ExportCard:
    """The model's card, and the honest threshold of its system's own image score; None where the recipe has none."""

    model: ModelCard
    threshold: float | None


class ExportedModel:
    """A trained model that scores images on the CPU, with all that it needs.

    Args:
        card: what was trained, and its threshold.
        student: the trained state.
        weights: of the teacher.
    """

    def __init__(self, card: ExportCard, student: dict[str, torch.Tensor], weights: TeacherWeights) -> None:
        self.card = card
        self._recipe = TrainingKey.parse(card.model.training).recipe
        system = system_of(self._recipe)
        frozen = system.teacher(weights, self._recipe)
        self._detector = system.detector(self._recipe, frozen, student, card.model.lambda_, torch.device("cpu"))

    @classmethod
    def load(cls, student: Path, teacher: Path, card: Path) -> "ExportedModel":
        """The model of the three files of an export."""
        record = json.loads(card.read_text(encoding="utf-8"))
        made = ExportCard(ModelCard(**record["model"]), record["threshold"])
        name = TrainingKey.parse(made.model.training).teacher
        weights = TeacherWeights(name, load_file(teacher), str(teacher), made.model.teacher_sha256)
        return cls(made, load_file(student), weights)

    def prepare(self, image: Image.Image) -> np.ndarray:
        """An image as in training: uint8 ``(side, side, 3)``."""
        return resized(image, self._recipe.side)

    def score(self, images: Sequence[Path]) -> tuple[pd.DataFrame, np.ndarray | None]:
        """Score image files; returns what ``score_prepared`` does. Raises ``DataError`` where one does not decode."""
        return self.score_prepared([self.prepare(read_rgb(path)) for path in images])

    def score_prepared(self, pixels: Sequence[np.ndarray]) -> tuple[pd.DataFrame, np.ndarray | None]:
        """Score images that ``prepare`` made.

        Returns:
            A table with one column per score rule, ``score`` (the system's own of them) and ``anomalous`` (it is
            above the threshold; empty where there is none), and the anomaly maps ``(N, side, side)`` of a system that
            makes some.
        """
        scores = self._detector.score(np.stack(pixels))
        table = pd.DataFrame(scores.images).assign(score=scores.images[self._recipe.own_score])
        called = pd.array([pd.NA] * len(table), "boolean")
        if self.card.threshold is not None:
            called = pd.array(table["score"] > self.card.threshold, "boolean")
        return table.assign(anomalous=called), scores.maps
