"""The one place where assets, resources and jobs meet."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets import anomaly_scores as evaluation
from assets import benchmark as tables
from assets import champion as champions
from assets import (
    comparisons,
    datasets,
    deployment,
    history,
    jobs,
    launching,
    paper_figures,
    reports,
    training_checks,
    upkeep,
)
from assets import mlflow_run as tracking
from assets import trained_model as training
from assets import watching as inbox
from resources.compute import ComputeResource
from resources.hooks import Hook
from resources.rebenchmarks import RebenchmarkResource
from resources.storage import DataResource, StoreResource
from resources.tracking import MlflowTracking
from rkd_pipeline.errors import RkdError
from rkd_pipeline.settings import Settings

ASSETS = [
    datasets.dataset_source,
    datasets.images,
    datasets.split_asset,
    datasets.prepared_images,
    datasets.resized_images,
    datasets.dataset_card,
    training.teachers,
    training.trained_model,
    evaluation.anomaly_scores,
    evaluation.metrics,
    tracking.mlflow_run,
    tables.benchmark,
    *tables.TABLES,
    *paper_figures.FIGURES,
    reports.leaderboard,
    comparisons.systems,
    comparisons.product_maps,
    comparisons.turned_pictures,
    deployment.exported_model,
    comparisons.ablation,
    comparisons.claims,
    history.history,
    reports.report,
    tracking.mlflow_report,
    inbox.scored_pictures,
]
CHECKS = [
    *training_checks.CHECKS,
    *comparisons.CHECKS,
    *history.CHECKS,
    upkeep.in_step_with_store,
]


def build_defs(settings: Settings, resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """The graph over one configuration; tests build it over their own store, or replace resources by name."""
    return dg.Definitions(
        assets=[*ASSETS, champions.champion],
        asset_checks=CHECKS,
        jobs=[*jobs.JOBS, *launching.JOBS, *champions.JOBS],
        schedules=[_schedule(settings)],
        sensors=upkeep.SENSORS,
        resources=_resources(settings) | dict(resource_overrides or {}),
        # In process: killing a run kills its training, where a step of its own would go on in the dark.
        executor=dg.in_process_executor,
    )


def _resources(settings: Settings) -> dict[str, Any]:
    return {
        "store": StoreResource(root=settings.store_address),
        "data_folder": DataResource.of(settings),
        "compute": ComputeResource.of(settings),
        "hook": Hook.of(settings),
        "watch": inbox.Watch.of(settings),
        "tracking": MlflowTracking(uri=settings.mlflow_uri, pages=settings.mlflow_pages),
        "rebenchmarks": RebenchmarkResource.of(settings),
    }


def _schedule(settings: Settings) -> dg.ScheduleDefinition:
    try:
        return upkeep.rebenchmark_schedule(settings)
    except dg.DagsterInvalidDefinitionError as error:
        raise RkdError(f"RKD_REBENCHMARK_CRON={settings.rebenchmark_cron!r}: {error}") from error


defs = build_defs(Settings.from_environment())
