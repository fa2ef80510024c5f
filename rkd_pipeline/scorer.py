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
        self.card = ScorerCard(ModelCard(**record["model"]), record["threshold"])
        self._key = TrainingKey.parse(self.card.model.training)
        weights = TeacherWeights(self._key.teacher, load_file(teacher), str(teacher), self.card.model.teacher_sha256)
        recipe, system = self._key.recipe, system_of(self._key.recipe)
        frozen = system.teacher(weights, recipe)
        self._detector = system.detector(
            recipe, frozen, load_file(student), self.card.model.lambda_, torch.device("cpu")
        )

    def score(self, pictures: Sequence[Path]) -> tuple[pd.DataFrame, np.ndarray]:
        """Score picture files, prepared as in training.

        Returns:
            A table with one column per score rule, ``score`` (the system's own of them) and ``anomalous`` (it is
            above the threshold; empty where there is none), and the anomaly maps ``(N, side, side)``.

        Raises:
            DataError: a file does not decode.
        """
        recipe = self._key.recipe
        pixels = np.stack([resized(read_rgb(p), recipe.side) for p in pictures])
        scores = self._detector.score(pixels)
        table = pd.DataFrame(scores.images).assign(score=scores.images[recipe.own_score])
        called = pd.array([pd.NA] * len(table), "boolean")
        if self.card.threshold is not None:
            called = pd.array(table["score"] > self.card.threshold, "boolean")
        return table.assign(anomalous=called), scores.maps
