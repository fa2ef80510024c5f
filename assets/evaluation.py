"""Anomaly maps, image scores and metrics of every trained model."""

import dagster as dg
import numpy as np

from assets.data import prepared_images, split_asset
from assets.partitions import grid, target_and_training
from assets.reporting import asset_options, column_schema, materialised, pictures, table, user_errors
from assets.training import DEVICE_POOL, trained_model
from resources.compute import ComputeResource
from resources.storage import StoreResource
from rkd_pipeline.benchmark_columns import COLUMN_TYPES, COLUMNS
from rkd_pipeline.flow import ANOMALY_SCORES, METRICS
from rkd_pipeline.score_rules import SCORE_RULES
from rkd_pipeline.stages import evaluation

GROUP = "evaluation"
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
)
SCORE_COLUMNS = {
    "image_id": "path relative to the dataset's folder",
    "part": "validation or test",
    "anomalous": "label",
    "defect": "kind of defect, or good",
    **SCORE_RULES,
}


@dg.asset(
    **asset_options(ANOMALY_SCORES, GROUP, "numpy"),
    partitions_def=grid,
    deps=[trained_model, split_asset, prepared_images],
    pool=DEVICE_POOL,
    metadata=column_schema(SCORE_COLUMNS),
    check_specs=[
        dg.AssetCheckSpec("finite", asset=ANOMALY_SCORES.name, description="No map or score is NaN or infinite.")
    ],
)
def anomaly_scores(
    context: dg.AssetExecutionContext, store: StoreResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """Anomaly maps and every image score of the system, from one trained model."""
    with user_errors():
        result = evaluation.score_images(store.open(), *target_and_training(context), compute.choose())
    scores, maps = evaluation.read_scores(result)
    rules = [rule for rule in SCORE_RULES if rule in scores]
    bad = int((~np.isfinite(maps)).sum()) + int((~np.isfinite(scores[rules].to_numpy())).sum())
    check = dg.AssetCheckResult(passed=bad == 0, check_name="finite", metadata={"not_finite": bad})
    summary = scores.groupby(["part", "anomalous"])[rules].mean().reset_index()
    return materialised(result, {"mean_scores": table(summary), "dagster/row_count": len(scores)}, [check])


@dg.asset(
    **asset_options(METRICS, GROUP, "parquet"),
    partitions_def=grid,
    deps=[trained_model, anomaly_scores, prepared_images],
    metadata=column_schema({c: COLUMNS[c] for c in METRIC_COLUMNS}, COLUMN_TYPES),
)
def metrics(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """Image and pixel metrics with their intervals, honest thresholds and their rates; pictures to look at."""
    with user_errors():
        result = evaluation.evaluate(store.open(), *target_and_training(context))
    rows = evaluation.read_metrics(result)
    auroc = {f"image_auroc_{rule}": round(value, 4) for rule, value in result.facts["image_auroc"].items()}
    figures = [result.folder / name for name in evaluation.FIGURES]
    return materialised(result, {"pictures": pictures(*figures), "metrics": table(rows), **auroc})
