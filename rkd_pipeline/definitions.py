"""The one place where assets, resources and jobs meet."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets import champions, comparisons, data, evaluation, figures, plans, reports, tables, tracking, training, upkeep
from resources.compute import ComputeResource
from resources.storage import DataResource, StoreResource
from resources.tracking import MlflowTracking
from rkd_pipeline.settings import Settings

ASSETS = [
    data.dataset_source,
    data.images,
    data.split_asset,
    data.prepared_images,
    data.dataset_card,
    training.teachers,
    training.trained_model,
    evaluation.anomaly_scores,
    evaluation.metrics,
    tracking.mlflow_run,
    tables.benchmark,
    *tables.TABLES,
    *figures.FIGURES,
    reports.leaderboard,
    comparisons.product_maps,
    comparisons.turned_pictures,
    comparisons.ablation,
    comparisons.claims,
    reports.report,
    tracking.mlflow_report,
    champions.champion,
]

# A job holds assets of one partitioning: Dagster cannot run a target and a grid cell in one run.
JOBS = [
    dg.define_asset_job(
        "prepare_target",
        [data.dataset_source, data.images, data.split_asset, data.prepared_images, data.dataset_card],
        description="Find or fetch the pictures of one target; decode, index, split and describe them.",
    ),
    dg.define_asset_job("list_teachers", [training.teachers], description="Read the registry of weights files."),
    dg.define_asset_job(
        "train_and_evaluate",
        [training.trained_model, evaluation.anomaly_scores, evaluation.metrics, tracking.mlflow_run],
        description="Train one target with one training key, score, measure, and mirror to MLflow.",
    ),
    dg.define_asset_job(
        "refresh_tables",
        [
            tables.benchmark,
            *tables.TABLES,
            *figures.FIGURES,
            reports.leaderboard,
            comparisons.ablation,
            comparisons.claims,
            reports.report,
            tracking.mlflow_report,
        ],
        description="Rebuild the benchmark, the paper's tables and figures, the leaderboard, the ablation, the "
        "claims and the report; mirror it.",
    ),
    dg.define_asset_job(
        "score_product_maps", [comparisons.product_maps], description="Judge a trained model by maps multiplied."
    ),
    dg.define_asset_job(
        "score_turned_pictures", [comparisons.turned_pictures], description="Score turned test pictures."
    ),
]


def _over(resources: Mapping[str, Any]) -> dg.Definitions:
    return dg.Definitions(assets=ASSETS, jobs=JOBS, resources=resources, executor=dg.in_process_executor)


CHECKS = [champions.keeps_up_with_champion]
PLAN_JOBS = [plans.ablation_job(_over)]


def build_defs(settings: Settings) -> dg.Definitions:
    """The graph over one configuration; tests build it over their own store."""
    return dg.Definitions(
        assets=ASSETS,
        asset_checks=CHECKS,
        jobs=[*JOBS, *PLAN_JOBS, *champions.JOBS],
        sensors=[upkeep.targets_in_step],
        resources={
            "store": StoreResource(root=str(settings.store.resolve())),
            "data_folder": DataResource.of(settings),
            "compute": ComputeResource(
                device=settings.device,
                precision=settings.precision,
                feature_gib=settings.feature_gib,
                checkpoint_seconds=settings.checkpoint_seconds,
            ),
            "tracking": MlflowTracking(uri=settings.mlflow_uri),
        },
        # In process: killing a run kills its training, where a step of its own would go on in the dark.
        executor=dg.in_process_executor,
    )


defs = build_defs(Settings.from_environment())
