"""The one place where assets, resources and jobs meet."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets import ablation_plan, comparisons, datasets, history, jobs, launching, paper_figures, reports, upkeep
from assets import anomaly_scores as evaluation
from assets import benchmark as tables
from assets import champion as champions
from assets import mlflow_run as tracking
from assets import trained_model as training
from assets import watching as inbox
from resources.compute import ComputeResource
from resources.hooks import Hook
from resources.storage import DataResource, StoreResource
from resources.tracking import MlflowTracking
from rkd_pipeline.errors import RkdError
from rkd_pipeline.settings import Settings

ASSETS = [
    datasets.dataset_source,
    datasets.images,
    datasets.split_asset,
    datasets.prepared_images,
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
    comparisons.product_maps,
    comparisons.turned_pictures,
    comparisons.ablation,
    comparisons.claims,
    history.history,
    reports.report,
    tracking.mlflow_report,
    inbox.scored_pictures,
    champions.champion,
]


def _over(resources: Mapping[str, Any]) -> dg.Definitions:
    needed = {"hook": Hook(), "watch": inbox.Watch(folder="", model=""), **resources}
    return dg.Definitions(assets=ASSETS, jobs=jobs.JOBS, resources=needed, executor=dg.in_process_executor)


PLAN_JOBS = [ablation_plan.ablation_job(_over)]


def build_defs(settings: Settings) -> dg.Definitions:
    """The graph over one configuration; tests build it over their own store."""
    return dg.Definitions(
        assets=ASSETS,
        asset_checks=[upkeep.in_step_with_store, champions.keeps_up_with_champion],
        jobs=[*jobs.JOBS, *launching.JOBS, *PLAN_JOBS, *champions.JOBS],
        schedules=[_schedule(settings)],
        sensors=upkeep.SENSORS,
        resources={
            "store": StoreResource(root=str(settings.store.resolve())),
            "data_folder": DataResource.of(settings),
            "compute": ComputeResource(
                device=settings.device,
                precision=settings.precision,
                feature_gib=settings.feature_gib,
                checkpoint_seconds=settings.checkpoint_seconds,
            ),
            "hook": Hook(),
            "watch": inbox.Watch(
                folder=str(settings.watch.resolve()) if settings.watch else "", model=settings.watch_model
            ),
            "tracking": MlflowTracking(uri=settings.mlflow_uri, pages=settings.mlflow_pages),
        },
        # In process: killing a run kills its training, where a step of its own would go on in the dark.
        executor=dg.in_process_executor,
    )


def _schedule(settings: Settings) -> dg.ScheduleDefinition:
    try:
        return upkeep.rebenchmark_schedule(settings)
    except dg.DagsterInvalidDefinitionError as error:
        raise RkdError(f"RKD_REBENCHMARK_CRON={settings.rebenchmark_cron!r}: {error}") from error


defs = build_defs(Settings.from_environment())
