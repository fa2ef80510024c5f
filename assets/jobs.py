"""Jobs over assets of one partitioning: Dagster cannot run a target and a grid cell in one run."""

import dagster as dg

from assets import comparisons, datasets, deployment, trained_model, watching
from assets import mlflow_run as tracking
from assets.benchmark import GROUP as PAPER
from assets.comparisons import GROUP as COMPARISONS
from assets.reports import GROUP as REPORTS

TRAINING = dg.AssetSelection.assets(datasets.resized_images, trained_model.trained_model)
TABLES = dg.AssetSelection.groups(PAPER, COMPARISONS, REPORTS) - dg.AssetSelection.assets(
    comparisons.product_maps, comparisons.turned_pictures, watching.scored_pictures
)

PREPARE = dg.define_asset_job(
    "prepare_target",
    dg.AssetSelection.groups(datasets.GROUP) - dg.AssetSelection.assets(datasets.resized_images),
    description="Find or fetch the images of one target; decode, index, split and describe them.",
)
LIST_TEACHERS = dg.define_asset_job(
    "list_teachers",
    dg.AssetSelection.assets(trained_model.teachers),
    description="Read the registry of weights files.",
)
TRAIN_MODEL = dg.define_asset_job(
    "train_model",
    TRAINING,
    description="Train one target with one training key, and no more: for a recipe that differs in scoring alone.",
)
TRAIN = dg.define_asset_job(
    "train_and_evaluate",
    TRAINING | dg.AssetSelection.groups("evaluation") | dg.AssetSelection.assets(tracking.mlflow_run),
    description="Train one target with one training key, score, measure, and mirror to MLflow.",
)
SCORE_PRODUCT_MAPS = dg.define_asset_job(
    "score_product_maps",
    dg.AssetSelection.assets(datasets.resized_images, comparisons.product_maps),
    description="Judge a trained model by maps multiplied.",
)
SCORE_ROTATED_IMAGES = dg.define_asset_job(
    "score_turned_pictures",
    dg.AssetSelection.assets(datasets.resized_images, comparisons.turned_pictures),
    description="Score rotated test images.",
)
EXPORT = dg.define_asset_job(
    "export_model",
    dg.AssetSelection.assets(datasets.resized_images, deployment.exported_model),
    description="Write a trained Reverse KD as a file for another runtime, and compare it with the training's scores.",
)
REFRESH = dg.define_asset_job(
    "refresh_tables",
    TABLES | dg.AssetSelection.assets(tracking.mlflow_report),
    description="Rebuild the benchmark, the paper's tables and figures, leaderboard, ablation, claims, history and "
    "report; mirror it.",
)
SCORE = dg.define_asset_job(
    "score_new_pictures",
    dg.AssetSelection.assets(watching.scored_pictures),
    description="Score what is new in the watched folder.",
)
JOBS = [PREPARE, LIST_TEACHERS, TRAIN_MODEL, TRAIN, SCORE_PRODUCT_MAPS, SCORE_ROTATED_IMAGES, EXPORT, REFRESH, SCORE]
