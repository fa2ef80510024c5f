"""A trained model taken out of the store: a folder that scores pictures by itself.

Holds student and teacher as safetensors and ``scorer.json``; this is what MLflow keeps as a logged model.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from rkd_pipeline.datasets.pictures import read_rgb, resized
from rkd_pipeline.files import keep, link_or_copy
from rkd_pipeline.models.weights import TeacherWeights
from rkd_pipeline.stages.training import WEIGHTS_FILE, ModelCard, open_teacher, read_model_card
from rkd_pipeline.store import Result, Store
from rkd_pipeline.systems import system_of
from rkd_pipeline.training_key import TrainingKey

STUDENT, TEACHER, CARD = "student.safetensors", "teacher.safetensors", "scorer.json"


@dataclass(frozen=True)
class ScorerCard:
    """The model's card, and the honest threshold of its system's own image score; None where the recipe has none."""

    model: ModelCard
    threshold: float | None


def export_scorer(store: Store, model: Result, threshold: float | None, folder: Path) -> None:
    """Write a scorer into ``folder``. Weights are hard links into the store where the file system allows."""
    key = TrainingKey.parse(read_model_card(model).training)
    weights = open_teacher(store, key)
    kept = keep(
        store.root / "teacher_weights" / f"{weights.sha256}.safetensors",
        lambda path: save_file({k: v.contiguous() for k, v in weights.state.items()}, path),
    )
    link_or_copy(model.folder / WEIGHTS_FILE, folder / STUDENT)
    link_or_copy(kept, folder / TEACHER)
    card = ScorerCard(read_model_card(model), threshold)
    (folder / CARD).write_text(json.dumps(asdict(card), indent=1), encoding="utf-8")


class Scorer:
    """Scores pictures with an exported model, on the CPU.

    Args:
        student, teacher, card: the three files of an export.
    """

    def __init__(self, student: Path, teacher: Path, card: Path) -> None:
        record = json.loads(card.read_text(encoding="utf-8"))
        made = ScorerCard(ModelCard(**record["model"]), record["threshold"])
        name = TrainingKey.parse(made.model.training).teacher
        weights = TeacherWeights(name, load_file(teacher), str(teacher), made.model.teacher_sha256)
        self._assemble(made, load_file(student), weights)

    @classmethod
    def of_training(cls, store: Store, model: Result, threshold: float | None) -> "Scorer":
        """The scorer of a ``trained_model``, in place: nothing is exported, so the store may be read-only."""
        card = read_model_card(model)
        made = cls.__new__(cls)
        weights = open_teacher(store, TrainingKey.parse(card.training))
        made._assemble(ScorerCard(card, threshold), load_file(model.folder / WEIGHTS_FILE), weights)
        return made

    def _assemble(self, card: ScorerCard, student: dict[str, torch.Tensor], weights: TeacherWeights) -> None:
        self.card = card
        self._recipe = TrainingKey.parse(card.model.training).recipe
        system = system_of(self._recipe)
        frozen = system.teacher(weights, self._recipe)
        self._detector = system.detector(self._recipe, frozen, student, card.model.lambda_, torch.device("cpu"))

    def prepare(self, image: Image.Image) -> np.ndarray:
        """An image as in training: uint8 ``(side, side, 3)``."""
        return resized(image, self._recipe.side)

    def score(self, pictures: Sequence[Path]) -> tuple[pd.DataFrame, np.ndarray]:
        """Score picture files; returns what ``score_prepared`` does. Raises ``DataError`` where one does not decode."""
        return self.score_prepared([self.prepare(read_rgb(path)) for path in pictures])

    def score_prepared(self, pixels: Sequence[np.ndarray]) -> tuple[pd.DataFrame, np.ndarray]:
        """Score images that ``prepare`` made.

        Returns:
            A table with one column per score rule, ``score`` (the system's own of them) and ``anomalous`` (it is
            above the threshold; empty where there is none), and the anomaly maps ``(N, side, side)``.
        """
        scores = self._detector.score(np.stack(pixels))
        table = pd.DataFrame(scores.images).assign(score=scores.images[self._recipe.own_score])
        called = pd.array([pd.NA] * len(table), "boolean")
        if self.card.threshold is not None:
            called = pd.array(table["score"] > self.card.threshold, "boolean")
        return table.assign(anomalous=called), scores.maps
