"""A target whose trainings are made up: real images, split and index, but untrained weights and drawn scores."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from safetensors.torch import save_file

from rkd_pipeline.data.split import part_of
from rkd_pipeline.data.user_targets import OwnTarget, targets_in
from rkd_pipeline.metrics.evaluation import measure
from rkd_pipeline.models.architectures import architecture
from rkd_pipeline.models.reverse_distillation import ReverseDistillation
from rkd_pipeline.recipes.score_rules import SCORE_RULES
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.results.figures import message
from rkd_pipeline.stages import datasets
from rkd_pipeline.stages.anomaly_scores import FIGURES
from rkd_pipeline.stages.trained_model import MODEL_FILE, WEIGHTS_FILE, ModelCard, open_teacher, training_parameters
from rkd_pipeline.store.files import link_or_copy
from rkd_pipeline.store.result_store import Result, Store
from rkd_pipeline.store.stage_versions import ANOMALY_SCORES, IMAGES, METRICS, SPLIT, TRAINED_MODEL

TARGET = "arena"
NORMAL, ANOMALOUS = 100, 40  # five folds: 20 normals test, 20 of the rest calibrate, just enough for a threshold

Finish = Callable[..., Result]


def fill(folder: Path) -> None:
    """Small images of noise, each another."""
    rng = np.random.default_rng(0)
    for kind, count in (("good", NORMAL), ("bad", ANOMALOUS)):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{number:03d}.png")


def build(folder: Path) -> Store:
    """A store with the target ``arena``, its data prepared and nothing trained."""
    store = Store(folder / "store")
    fill(folder / "pictures")
    targets_in(store).add(OwnTarget(TARGET, folder / "pictures"))
    datasets.find_source(store, folder, TARGET)
    datasets.index_images(store, TARGET)
    datasets.split_images(store, TARGET)
    datasets.prepare_images(store, TARGET, datasets.FIRST_SIDE)
    save_file(ReverseDistillation(architecture("resnet18"), "narrow").state_dict(), store.root / WEIGHTS_FILE)
    return store


def enter(store: Store) -> Finish:
    """A function that makes a training of the arena be done.

    ``finish(training, strength, luck)``: anomalous images score ``strength`` standard deviations above normal ones;
    ``luck`` seeds what is this training's own.
    """
    index = datasets.read_index(store.require(IMAGES, TARGET)).set_index("image_id")
    split = store.require(SPLIT, TARGET)
    rows, described = datasets.read_verified_split(split), targets_in(store).target(TARGET)
    difficulty = pd.Series(np.random.default_rng(1).normal(size=len(index)), index.index)
    weights = store.root / WEIGHTS_FILE
    known: dict[str, str] = {}

    def sha256_of(key: TrainingKey) -> str:
        if str(key.teacher) not in known:
            known[str(key.teacher)] = open_teacher(store, key).sha256
        return known[str(key.teacher)]

    def finish(training: str, strength: float, luck: int = 0) -> Result:
        key = TrainingKey.parse(training)
        prepared = datasets.prepare_images(store, TARGET, key.recipe.side)
        teacher = sha256_of(key)

        def train(into: Path) -> dict[str, Any]:
            link_or_copy(weights, into / WEIGHTS_FILE)
            card = ModelCard(TARGET, training, str(key.teacher), teacher, 1.0)
            (into / MODEL_FILE).write_text(json.dumps(asdict(card)))
            (into / "made_up.txt").write_text(f"{strength} {luck}")  # other scores come from another model
            history = {"epoch": [1], "train_loss": [1.0], "validation_loss": [1.0]}
            pd.DataFrame(history).to_parquet(into / "history.parquet")
            counts = {"train_pictures": 60, "validation_pictures": 20, "epochs_trained": 1, "best_epoch": 1}
            return counts | {"lambda": 1.0, "device": "none"}

        parameters = training_parameters(key) | {"teacher_sha256": teacher, "made_up": [strength, luck]}
        inputs = [split, prepared]
        model = store.produce(TRAINED_MODEL, [TARGET, training], train, parameters=parameters, inputs=inputs)

        def score(into: Path) -> None:
            parts = key.recipe.scored_parts
            ids = {part: part_of(rows, described, key.repeat, part) for part in parts}
            names = [name for part in parts for name in ids[part]]
            anomalous = index.loc[names, "anomalous"].to_numpy(bool)
            own = np.random.default_rng([key.seed, luck]).normal(scale=0.4, size=len(names))
            values = difficulty[names].to_numpy() + own + strength * anomalous
            table = pd.DataFrame(
                {
                    "image_id": names,
                    "part": [part for part in parts for _ in ids[part]],
                    "anomalous": anomalous,
                    "defect": index.loc[names, "defect"].to_numpy(),
                    **dict.fromkeys(SCORE_RULES, values),
                }
            )
            table.to_parquet(into / "scores.parquet", index=False)
            np.save(into / "maps.npy", values[:, None, None].astype(np.float32))

        scored = store.produce(ANOMALY_SCORES, [TARGET, training], score, inputs=[model, split, prepared])

        def evaluate(into: Path) -> dict[str, Any]:
            table = pd.read_parquet(scored.folder / "scores.parquet")
            rates = measure(table, np.load(scored.folder / "maps.npy"), None, key.recipe)
            rates.to_parquet(into / "metrics.parquet", index=False)
            for name in FIGURES:
                (into / name).write_bytes(message(f"{name}: nothing was trained"))
            return {"image_auroc": {}}

        return store.produce(METRICS, [TARGET, training], evaluate, inputs=[model, scored, prepared])

    return finish
