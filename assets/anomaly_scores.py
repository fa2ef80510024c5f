"""Anomaly maps, image scores and metrics of every trained model."""

from collections.abc import Iterator

import dagster as dg
import numpy as np
import pandas as pd

from assets.datasets import resized_images, split_asset
from assets.partitions import grid, of_its_target, of_the_same_cell, target_and_training
from assets.reporting import (
    asset_options,
    column_schema,
    inline_images,
    materialised,
    table,
    user_errors,
)
from assets.trained_model import trained_model
from resources.compute import DEVICE_POOL, ComputeResource
from resources.storage import StoreResource
from rkd_pipeline.recipes.score_rules import SCORE_RULES
from rkd_pipeline.results.schema import COLUMN_TYPES, COLUMNS
from rkd_pipeline.stages import anomaly_scores as evaluation
from rkd_pipeline.store.stage_versions import ANOMALY_SCORES, METRICS
from rkd_pipeline.training.conditions import NOT_RECORDED

GROUP = "evaluation"
FINITE = "finite"
MAPS_WIDTH = 480  # pixels
METRIC_COLUMNS = (
    "metric",
    "score_rule",
    "protocol",
    "value",
    "ci_low",
    "ci_high",
    "interval_method",
    "n_normal",
    "n_anomalous",
    "n_without_mask",
)
SCORE_COLUMNS = {
    "image_id": "path relative to the dataset's folder",
    "part": "calibration or test",
    "anomalous": "label",
    "defect": "kind of defect, or good",
    **SCORE_RULES,
}


@dg.asset(
    **asset_options(ANOMALY_SCORES, GROUP, "numpy"),
    partitions_def=grid,
    deps=[*of_the_same_cell(trained_model, resized_images), *of_its_target(split_asset)],
    pool=DEVICE_POOL,
    metadata=column_schema(SCORE_COLUMNS),
    check_specs=[
        dg.AssetCheckSpec(
            FINITE, asset=ANOMALY_SCORES.name, blocking=True, description="No map or score is NaN or infinite."
        )
    ],
)
def anomaly_scores(
    context: dg.AssetExecutionContext, store: StoreResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """Anomaly maps and every image score of one trained model, on test images and held-out normals.

    Maps: float32 (N, side, side), of systems that make some. Reverse KD's are at least 0, equation 5: one minus cosine,
    summed over three scales, smoothed with a Gaussian; other systems' are their own. Scores: one row per image; no
    unit, larger is more anomalous.
    """
    with user_errors():
        result = evaluation.score_images(store.open(), *target_and_training(context), compute.choose())
    scores, maps = evaluation.read_scores(result)
    rules = [rule for rule in SCORE_RULES if rule in scores]
    bad = sum(int((~np.isfinite(found)).sum()) for found in (maps, scores[rules].to_numpy()) if found is not None)
    seen = {"not_finite": bad, "images": len(scores), "maps": 0 if maps is None else len(maps)}
    # Of no image at all nothing could be measured either: that stops here too. The metrics refuse NaN by themselves.
    check = dg.AssetCheckResult(passed=bad == 0 and len(scores) > 0, check_name=FINITE, metadata=seen)
    summary = scores.groupby(["part", "anomalous"])[rules].mean().reset_index()
    return materialised(result, {"mean_scores": table(summary), "dagster/row_count": len(scores)}, [check])


@dg.asset(
    **asset_options(METRICS, GROUP, "parquet"),
    partitions_def=grid,
    deps=of_the_same_cell(trained_model, anomaly_scores, resized_images),
    metadata=column_schema(
        {c: COLUMNS[c] for c in METRIC_COLUMNS},
        COLUMN_TYPES,
        {c: [(ANOMALY_SCORES.name, rule) for rule in SCORE_RULES] for c in ("value", "ci_low", "ci_high")}
        | {"n_normal": [(ANOMALY_SCORES.name, "anomalous")], "n_anomalous": [(ANOMALY_SCORES.name, "anomalous")]},
    ),
)
def metrics(context: dg.AssetExecutionContext, store: StoreResource) -> Iterator[dg.MaterializeResult]:
    """Every metric of a training, with its interval: fractions from 0 to 1, one row per metric and score.

    Image AUROC, AP, F1-max and pixel AUROC, AP, AUPRO, PRO and AUPIMO (docs/metrics.md); thresholds in units of the
    score, set on held-out normals, with the rates that they reach. Images of maps, scores, curves and losses.
    """
    target_name, training_key = target_and_training(context)
    with user_errors():
        result = evaluation.evaluate(store.open(), target_name, training_key)
    rows = evaluation.read_metrics(result)
    auroc = {
        f"image_auroc_{rule}": round(value, 4)
        for rule, value in result.facts["image_auroc"].items()
        if value is not None
    }
    maps, *others = (result.folder / name for name in evaluation.FIGURES)
    figures = {file.stem: dg.MetadataValue.path(str(file)) for file in others}
    said = {"computed_on": result.facts.get("computed_on", NOT_RECORDED)}
    if note := evaluation.mask_note(rows):
        said["images_without_mask"] = note
    yield materialised(result, {**_numbers(rows), **auroc, **said, **figures})
    # As an observation, whose metadata Dagster keeps fewer times: so it can be wide enough to be looked at. Pages show
    # those that come after the materialisation.
    seen = {"maps": inline_images(maps, width=MAPS_WIDTH)}
    context.log_event(dg.AssetObservation(METRICS.name, partition=context.partition_key, metadata=seen))


def _numbers(rows: pd.DataFrame) -> dict[str, dg.MetadataValue]:
    """Every number, and what has none with the reason, each reason once."""
    measured = rows[rows["value"].notna()].drop(columns=["n_normal", "n_anomalous", "n_without_mask"])
    shown = {"metrics": table(measured), "test_images": table(rows[["n_normal", "n_anomalous"]].head(1))}
    missing = rows[rows["value"].isna()].groupby("protocol")["metric"].unique().map(", ".join)
    if len(missing):
        shown["without_a_number"] = table(missing.rename("metrics").rename_axis("reason").reset_index())
    return shown
