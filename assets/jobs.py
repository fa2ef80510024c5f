"""Jobs over assets of one partitioning: Dagster cannot run a target and a grid cell in one run."""

import dagster as dg

from assets import anomaly_scores as evaluation
from assets import benchmark as tables
from assets import comparisons, datasets, history, paper_figures, reports, watching
from assets import mlflow_run as tracking
from assets import trained_model as training

PREPARE = dg.define_asset_job(
    "prepare_target",
    [datasets.dataset_source, datasets.images, datasets.split_asset, datasets.prepared_images, datasets.dataset_card],
    description="Find or fetch the images of one target; decode, index, split and describe them.",
)
TRAIN = dg.define_asset_job(
    "train_and_evaluate",
    [training.trained_model, evaluation.anomaly_scores, evaluation.metrics, tracking.mlflow_run],
    description="Train one target with one training key, score, measure, and mirror to MLflow.",
)
REFRESH = dg.define_asset_job(
    "refresh_tables",
    [
        tables.benchmark,
        *tables.TABLES,
        *paper_figures.FIGURES,
        reports.leaderboard,
        comparisons.ablation,
        comparisons.claims,
        history.history,
        reports.report,
        tracking.mlflow_report,
    ],
    description="Rebuild the benchmark, the paper's tables and figures, leaderboard, ablation, claims, history and "
    "report; mirror it.",
)
SCORE = dg.define_asset_job(
    "score_new_pictures", [watching.scored_pictures], description="Score what is new in the watched folder."
)
JOBS = [
    PREPARE,
    dg.define_asset_job("list_teachers", [training.teachers], description="Read the registry of weights files."),
    TRAIN,
    dg.define_asset_job(
        "score_product_maps", [comparisons.product_maps], description="Judge a trained model by maps multiplied."
    ),
    dg.define_asset_job(
        "score_turned_pictures", [comparisons.turned_pictures], description="Score rotated test images."
    ),
    REFRESH,
    SCORE,
]
