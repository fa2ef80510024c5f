"""Jobs over assets of one partitioning: Dagster cannot run a target and a grid cell in one run."""

import dagster as dg

from assets import comparisons, data, evaluation, figures, history, inbox, reports, tables, tracking, training

PREPARE = dg.define_asset_job(
    "prepare_target",
    [data.dataset_source, data.images, data.split_asset, data.prepared_images, data.dataset_card],
    description="Find or fetch the pictures of one target; decode, index, split and describe them.",
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
        *figures.FIGURES,
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
    "score_new_pictures", [inbox.scored_pictures], description="Score what is new in the watched folder."
)
JOBS = [
    PREPARE,
    dg.define_asset_job("list_teachers", [training.teachers], description="Read the registry of weights files."),
    TRAIN,
    dg.define_asset_job(
        "score_product_maps", [comparisons.product_maps], description="Judge a trained model by maps multiplied."
    ),
    dg.define_asset_job(
        "score_turned_pictures", [comparisons.turned_pictures], description="Score turned test pictures."
    ),
    REFRESH,
    SCORE,
]
