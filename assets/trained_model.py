"""Teachers and training: one model per target and training key."""

from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd

from assets.datasets import resized_images, split_asset
from assets.partitions import grid, of_its_target, of_the_same_cell, target_and_training
from assets.reporting import (
    asset_options,
    column_schema,
    inline_image,
    materialised,
    table,
    user_errors,
)
from resources.compute import DEVICE_POOL, ComputeResource
from resources.storage import StoreResource
from resources.tracking import MlflowTracking
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages import trained_model as training
from rkd_pipeline.store.stage_versions import TEACHERS, TRAINED_MODEL

if TYPE_CHECKING:
    from rkd_pipeline.training.loop import Epoch

HISTORY_COLUMNS = {
    "epoch": "from 1",
    "train_loss": "mean over the training images, no unit",
    "validation_loss": "mean over held-out normals; empty where the recipe has none",
}
PLOTTED = ("final_train_loss", "pictures_per_second")  # over trainings, by the UI; the other facts are together


@dg.asset(
    **asset_options(TEACHERS, "teacher", "pytorch"),
    metadata=column_schema({"teacher": "name in keys", "path": "weights file", "sha256": "of the file"}),
)
def teachers(store: StoreResource) -> dg.MaterializeResult:
    """The weights files that keys can name. torchvision's published sets need no entry."""
    with user_errors():
        result = training.list_teachers(store.open())
    return materialised(result, {"files": table(pd.read_parquet(result.folder / "teachers.parquet"))})


@dg.asset(
    **asset_options(TRAINED_MODEL, "training", "pytorch"),
    partitions_def=grid,
    deps=[*of_its_target(split_asset), *of_the_same_cell(resized_images), teachers],
    pool=DEVICE_POOL,
    metadata=column_schema(HISTORY_COLUMNS),
)
def trained_model(
    context: dg.AssetExecutionContext, store: StoreResource, compute: ComputeResource, tracking: MlflowTracking
) -> dg.MaterializeResult:
    """What a system trains on normal images; for Reverse KD, OCBE and decoder (eq. 1 to 4).

    Writes weights (safetensors), the history of losses (means per image, of the loss that the recipe trains on), and
    the model's card. Resumes a training that was killed. A recipe that differs from another in scoring alone has that
    one's weights: the job ``train_model`` trains that one first.
    """
    target_name, key = target_and_training(context)
    with user_errors():
        epochs = TrainingKey.parse(key).epochs
        with tracking.live_curves(store.open(), target_name, key, {"dagster.run_id": context.run.run_id}) as curves:

            def on_epoch(epoch: "Epoch") -> None:
                curves.log(epoch)
                if epochs and epoch.epoch % max(1, epochs // 10) == 0:
                    context.log.info(f"epoch {epoch.epoch} of {epochs}: {epoch}")

            result = training.train_model(
                store.open(),
                target_name,
                key,
                compute.choose(),
                checkpoint_seconds=compute.checkpoint_seconds,
                on_epoch=on_epoch,
            )
    from rkd_pipeline.results.figures import loss_curve

    history = training.read_history(result)
    facts = {name: _readable(fact) for name, fact in result.facts.items()}
    shown: dict[str, Any] = {name: facts.pop(name) for name in PLOTTED if result.facts[name] is not None}
    shown["facts"] = dg.MetadataValue.json(facts)
    if len(history):  # a system that learns in one pass has none
        shown["losses"] = inline_image("losses", loss_curve(history, f"{target_name}, {key}"))
        shown["last_epochs"] = table(history.tail(10))
    return materialised(result, shown)


def _readable(fact: object) -> int | float | str:
    """A fact as a page shows it: five digits say enough, and the model's card has them all."""
    if isinstance(fact, float):
        return float(f"{fact:.5g}")
    return fact if isinstance(fact, int | str) else str(fact)
