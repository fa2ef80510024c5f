"""From a stored training to a model that scores images without the store."""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file

from rkd_pipeline.detectors.exported_model import CARD, STUDENT, TEACHER, ExportCard, ExportedModel
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages.trained_model import WEIGHTS_FILE, open_teacher, read_model_card
from rkd_pipeline.store.files import keep, link_or_copy
from rkd_pipeline.store.result_store import Result, Store


def export_model(store: Store, model: Result, threshold: float | None, folder: Path) -> None:
    """Write an exported model into ``folder``. Weights are hard links into the store where the file system allows."""
    key = TrainingKey.parse(read_model_card(model).training)
    weights = open_teacher(store, key)
    kept = keep(
        store.root / "teacher_weights" / f"{weights.sha256}.safetensors",
        lambda path: save_file({k: v.contiguous() for k, v in weights.state.items()}, path),
    )
    link_or_copy(model.folder / WEIGHTS_FILE, folder / STUDENT)
    link_or_copy(kept, folder / TEACHER)
    card = ExportCard(read_model_card(model), threshold)
    (folder / CARD).write_text(json.dumps(asdict(card), indent=1), encoding="utf-8")


def model_in_place(store: Store, model: Result, threshold: float | None) -> ExportedModel:
    """The same model without an export: nothing is written, so the store may be read-only."""
    card = read_model_card(model)
    weights = open_teacher(store, TrainingKey.parse(card.training))
    return ExportedModel(ExportCard(card, threshold), load_file(model.folder / WEIGHTS_FILE), weights)
