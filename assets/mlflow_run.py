"""MLflow's copy of every training, and of the report."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.anomaly_scores import metrics
from assets.benchmark import REFRESH
from assets.partitions import grid, of_the_same_cell, target_and_training
from assets.reporting import OWNER, user_errors
from assets.reports import report
from assets.trained_model import trained_model
from resources.compute import TABLES_POOL
from resources.storage import StoreResource
from resources.tracking import MlflowTracking, TrackingError
from rkd_pipeline.addresses import shown
from rkd_pipeline.store.result_store import Store


@dg.asset(
    partitions_def=grid,
    deps=of_the_same_cell(trained_model, metrics),
    group_name="tracking",
    kinds={"python", "mlflow"},
    owners=[OWNER],
    code_version="1",
    output_required=False,
)
def mlflow_run(
    context: dg.AssetExecutionContext, store: StoreResource, tracking: MlflowTracking
) -> Iterator[dg.MaterializeResult]:
    """The MLflow run of a training: parameters, curves, metrics, dataset, figures, and a model that scores images.

    A mirror of the store. Where MLflow is away, this stays unmaterialised, nothing else suffers, and materialising it
    later sends what is missing. Errors of our own fail it.
    """
    target_name, training = target_and_training(context)
    tags = {"dagster.run_id": context.run.run_id}
    with user_errors():
        opened = store.open()
        try:
            sent = _sent(opened, tracking, tracking.mirror(opened, target_name, training, tags))
        except TrackingError as error:
            context.log.warning(f"MLflow did not take {target_name} {training}: {error}; {error.advice}")
            return
    link = {"mlflow": sent.get("mlflow", sent["mlflow_run_id"])}
    for asset in (trained_model, metrics):  # their own pages lead there too
        context.log_event(dg.AssetObservation(asset.key, partition=context.partition_key, metadata=link))
    yield dg.MaterializeResult(metadata=sent)


@dg.asset(
    deps=[report],
    group_name="tracking",
    kinds={"python", "mlflow"},
    owners=[OWNER],
    code_version="1",
    output_required=False,
    automation_condition=REFRESH,
    pool=TABLES_POOL,
)
def mlflow_report(
    context: dg.AssetExecutionContext, store: StoreResource, tracking: MlflowTracking
) -> Iterator[dg.MaterializeResult]:
    """The MLflow run of a report: the HTML file, the paper's tables and figures, and the leaderboard, at full size.

    A mirror too: where MLflow is away, this stays unmaterialised, and materialising it later sends it.
    """
    with user_errors():
        opened = store.open()
        try:
            sent = _sent(opened, tracking, tracking.mirror_report(opened, {"dagster.run_id": context.run.run_id}))
        except TrackingError as error:
            context.log.warning(f"MLflow did not take the report: {error}; {error.advice}")
            return
    yield dg.MaterializeResult(metadata=sent)


def _sent(store: Store, tracking: MlflowTracking, run_id: str) -> dict[str, Any]:
    """What a mirrored run's page shows. Raises ``TrackingError`` where MLflow is away."""
    page = tracking.run_page(store, run_id)
    link = {"mlflow": dg.MetadataValue.url(page)} if page else {}
    return link | {"mlflow_run_id": run_id, "tracking_uri": shown(tracking.tracking_uri(store))}
