"""Comparisons over many trainings: the ablation and the paper's claims; and the scorings that only they need."""

from collections.abc import Iterator

import dagster as dg

from assets.anomaly_scores import anomaly_scores
from assets.benchmark import REFRESH, benchmark
from assets.datasets import resized_images, split_asset
from assets.partitions import grid, of_all_cells, of_its_target, of_the_same_cell, target_and_training
from assets.reporting import (
    NothingCompared,
    asset_options,
    check_of,
    column_schema,
    inline_images,
    materialised,
    outcomes,
    table,
    user_errors,
)
from assets.trained_model import trained_model
from resources.compute import DEVICE_POOL, TABLES_POOL, ComputeResource
from resources.storage import StoreResource
from rkd_pipeline.results.ablation_effects import COLUMNS
from rkd_pipeline.results.paper_claims import COLUMNS as CLAIM_COLUMNS
from rkd_pipeline.results.system_comparison import PAIR_COLUMNS
from rkd_pipeline.stages import ablation as stage
from rkd_pipeline.stages import claims as claims_stage
from rkd_pipeline.stages import evidence
from rkd_pipeline.stages import systems as systems_stage
from rkd_pipeline.store.result_store import Result
from rkd_pipeline.store.stage_versions import ABLATION, CLAIMS, PRODUCT_MAPS, ROTATED_IMAGES, SYSTEMS

GROUP = "comparisons"
COMPLETE = "complete"


@dg.asset(
    **asset_options(PRODUCT_MAPS, GROUP, "parquet"),
    partitions_def=grid,
    deps=[*of_the_same_cell(trained_model, resized_images), *of_its_target(split_asset)],
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
    deps=[*of_the_same_cell(trained_model, resized_images), *of_its_target(split_asset)],
    pool=DEVICE_POOL,
)
def turned_pictures(
    context: dg.AssetExecutionContext, store: StoreResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """A trained model's numbers on the test images rotated by quarters: what the claim on rotation needs."""
    with user_errors():
        result = evidence.score_rotated_images(store.open(), *target_and_training(context), compute.choose())
    return materialised(result, {"values": table(evidence.values_by_rotation(result))})


@dg.asset(
    **asset_options(ABLATION, GROUP, "markdown"),
    deps=[benchmark, *of_all_cells(anomaly_scores, product_maps)],
    automation_condition=REFRESH,
    pool=TABLES_POOL,
    metadata=column_schema(COLUMNS),
)
def ablation(store: StoreResource) -> dg.MaterializeResult:
    """What each factor of training and scoring does around a recipe, largest effect first."""
    with user_errors(), store.looking() as opened:
        result = stage.build_ablation(opened)
    text = dg.MetadataValue.md((result.folder / stage.TEXT).read_text(encoding="utf-8"))
    shown = {"effects": text, "figure": inline_images(*stage.figure_files(result))}
    return materialised(result, shown)


@check_of(ablation, (COMPLETE, "Every training and scoring that the ablation plans is there."))
def check_ablation(context: dg.AssetCheckExecutionContext, store: StoreResource) -> Iterator[dg.AssetCheckResult]:
    """What an ablation still lacks."""
    with user_errors():
        result = store.open().require(ABLATION)
    yield from outcomes(context, {COMPLETE: lambda: _complete(result)})


def _complete(result: Result) -> dg.AssetCheckResult | NothingCompared:
    if not result.facts["centres"]:
        return NothingCompared("no ablation was measured")
    missing, unscored = stage.read_missing(result), result.facts["without_product_maps"]
    return dg.AssetCheckResult(
        passed=missing.empty and not unscored,
        check_name=COMPLETE,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"missing": table(missing), "product_maps_missing": ", ".join(unscored) or "none"},
    )


CHECKS = [check_ablation]


@dg.asset(
    **asset_options(SYSTEMS, GROUP, "markdown"),
    deps=[benchmark, *of_all_cells(anomaly_scores)],
    automation_condition=REFRESH,
    pool=TABLES_POOL,
    metadata=column_schema(PAIR_COLUMNS),
)
def systems(store: StoreResource) -> dg.MaterializeResult:
    """All systems side by side: quality and cost on each target, and which differences are larger than noise."""
    with user_errors(), store.looking() as opened:
        result = systems_stage.build_systems(opened)
    text = dg.MetadataValue.md((result.folder / systems_stage.TEXT).read_text(encoding="utf-8"))
    figures = inline_images(*systems_stage.figure_paths(result))
    return materialised(result, {"systems": text, "figures": figures, **{k: int(n) for k, n in result.facts.items()}})


@dg.asset(
    **asset_options(CLAIMS, GROUP, "markdown"),
    deps=[benchmark, *of_all_cells(trained_model, anomaly_scores, turned_pictures)],
    automation_condition=REFRESH,
    pool=TABLES_POOL,
    metadata=column_schema(CLAIM_COLUMNS),
)
def claims(store: StoreResource) -> dg.MaterializeResult:
    """The paper's claims, re-tested on what was measured: statistic, interval, verdict, and what is missing for one."""
    with user_errors(), store.looking() as opened:
        result = claims_stage.build_claims(opened)
    text = dg.MetadataValue.md((result.folder / claims_stage.TEXT).read_text(encoding="utf-8"))
    return materialised(result, {"claims": text, **{name: int(n) for name, n in result.facts.items()}})
