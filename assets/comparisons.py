"""Comparisons over many trainings: the ablation and the paper's claims; and the scorings that only they need."""

import dagster as dg

from assets.anomaly_scores import anomaly_scores
from assets.benchmark import REFRESH, TABLES_POOL, benchmark
from assets.datasets import prepared_images, split_asset
from assets.partitions import grid, target_and_training
from assets.reporting import (
    asset_options,
    column_schema,
    inline_images,
    materialised,
    nothing_compared,
    table,
    user_errors,
)
from assets.trained_model import DEVICE_POOL, trained_model
from resources.compute import ComputeResource
from resources.storage import StoreResource
from rkd_pipeline.results.ablation_effects import COLUMNS
from rkd_pipeline.results.paper_claims import COLUMNS as CLAIM_COLUMNS
from rkd_pipeline.stages import ablation as stage
from rkd_pipeline.stages import claims as claims_stage
from rkd_pipeline.stages import evidence
from rkd_pipeline.store.stage_versions import ABLATION, CLAIMS, PRODUCT_MAPS, ROTATED_IMAGES

GROUP = "comparisons"
COMPLETE = "complete"


@dg.asset(
    **asset_options(PRODUCT_MAPS, GROUP, "parquet"),
    partitions_def=grid,
    deps=[trained_model, split_asset, prepared_images],
    pool=DEVICE_POOL,
)
def product_maps(
    context: dg.AssetExecutionContext, store: StoreResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """A trained model judged by maps multiplied over scales (anomalib of June 2022) instead of added; no training."""
    with user_errors():
        result = evidence.score_product_maps(store.open(), *target_and_training(context), compute.choose())
    return materialised(result, {"values": table(evidence.values_of(result))})


@dg.asset(
    **asset_options(ROTATED_IMAGES, GROUP, "parquet"),
    partitions_def=grid,
    deps=[trained_model, split_asset, prepared_images],
    pool=DEVICE_POOL,
)
def turned_pictures(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """A trained model's numbers on the test images rotated by quarters: what the claim on rotation needs."""
    with user_errors():
        result = evidence.score_rotated_images(store.open(), *target_and_training(context))
    return materialised(result, {"values": table(evidence.values_by_rotation(result))})


@dg.asset(
    **asset_options(ABLATION, GROUP, "markdown"),
    deps=[benchmark, anomaly_scores, product_maps],
    automation_condition=REFRESH,
    pool=TABLES_POOL,
    metadata=column_schema(COLUMNS),
    check_specs=[
        dg.AssetCheckSpec(
            COMPLETE, asset=ABLATION.name, description="Every training and scoring that the ablation plans is there."
        )
    ],
)
def ablation(store: StoreResource) -> dg.MaterializeResult:
    """What each factor of training and scoring does around a recipe, largest effect first."""
    with user_errors():
        result = stage.build_ablation(store.open())
    missing, unscored = stage.read_missing(result), result.facts["without_product_maps"]
    text = dg.MetadataValue.md((result.folder / stage.TEXT).read_text(encoding="utf-8"))
    shown = {"effects": text, "figure": inline_images(*stage.figure_files(result), width=1100)}
    if not result.facts["centres"]:
        return materialised(result, shown, [nothing_compared(COMPLETE, "no ablation was measured")])
    check = dg.AssetCheckResult(
        passed=missing.empty and not unscored,
        check_name=COMPLETE,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"missing": table(missing), "product_maps_missing": ", ".join(unscored) or "none"},
    )
    return materialised(result, shown, [check])


@dg.asset(
    **asset_options(CLAIMS, GROUP, "markdown"),
    deps=[benchmark, trained_model, anomaly_scores, turned_pictures],
    automation_condition=REFRESH,
    pool=TABLES_POOL,
    metadata=column_schema(CLAIM_COLUMNS),
)
def claims(store: StoreResource) -> dg.MaterializeResult:
    """The paper's claims, re-tested on what was measured: statistic, interval, verdict, and what is missing for one."""
    with user_errors():
        result = claims_stage.build_claims(store.open())
    text = dg.MetadataValue.md((result.folder / claims_stage.TEXT).read_text(encoding="utf-8"))
    return materialised(result, {"claims": text, **{name: int(n) for name, n in result.facts.items()}})
