"""A trained model as a file that runs elsewhere, and the gate that it has to pass."""

from typing import Any

import dagster as dg
import pandas as pd

from assets.anomaly_scores import anomaly_scores, metrics
from assets.datasets import resized_images, split_asset
from assets.partitions import grid, of_its_target, of_the_same_cell, target_and_training
from assets.reporting import asset_options, materialised, table, user_errors
from assets.trained_model import trained_model
from resources.compute import DEVICE_POOL
from resources.storage import StoreResource
from resources.tracking import MlflowTracking, TrackingError
from rkd_pipeline.stages import deployment
from rkd_pipeline.statistics.export_parity import Finding
from rkd_pipeline.store.result_store import Result
from rkd_pipeline.store.stage_versions import EXPORTED_MODEL

PARITY = "parity"


class Export(dg.Config):
    """How a model is exported: ``onnx``, ``openvino`` or ``torch``, at ``fp32``, ``fp16`` or ``int8``."""

    format: str = "onnx"
    precision: str = "fp32"


@dg.asset(
    **asset_options(EXPORTED_MODEL, "models", "onnx"),
    partitions_def=grid,
    deps=[
        *of_the_same_cell(trained_model, anomaly_scores, metrics, resized_images),
        *of_its_target(split_asset),
    ],
    pool=DEVICE_POOL,
    check_specs=[
        dg.AssetCheckSpec(
            PARITY,
            asset=EXPORTED_MODEL.name,
            blocking=True,
            description="The file scores the whole test set as the training does, in a process of its own: scores "
            "and maps to 1e-4 at fp32, and from files to 2e-2; below fp32 image AUROC and AUPRO lose no more than "
            "half a point, at the lower end of the paired interval. A warning where too few images test to tell that.",
        )
    ],
)
def exported_model(
    context: dg.AssetExecutionContext, store: StoreResource, tracking: MlflowTracking, config: Export
) -> dg.MaterializeResult:
    """Reverse KD as one file, from the bytes of an image to score, decision and map, for runtimes without this project.

    Made on demand, also by ``rkd export``. MLflow keeps a copy beside the training's model.
    """
    with user_errors():
        opened, key = store.open(), target_and_training(context)
        result = deployment.export_graph(opened, *key, config.format, config.precision)
        verdict, findings = deployment.read_parity(result)
        mlflow_has = "nothing: it did not pass"
        if verdict != "failed":
            try:
                mlflow_has = tracking.attach_export(opened, *key, result)
            except TrackingError as error:
                mlflow_has = f"nothing ({error}); {error.advice}"
    shown: dict[str, Any] = {"verdict": verdict, "mlflow": mlflow_has} | _readable(result)
    return materialised(result, shown, [parity_result(verdict, findings)])


def parity_result(verdict: str, findings: list[Finding]) -> dg.AssetCheckResult:
    """The gate, of a verdict: what cannot be told is shown as a warning, and blocks nothing."""
    severe = dg.AssetCheckSeverity.ERROR if verdict == "failed" else dg.AssetCheckSeverity.WARN
    return dg.AssetCheckResult(
        passed=verdict == "passed",
        check_name=PARITY,
        severity=severe,
        metadata={"verdict": verdict, "findings": table(pd.DataFrame(findings))},
    )


def _readable(result: Result) -> dict[str, Any]:
    return {name: value for name, value in result.facts.items() if value is not None}
