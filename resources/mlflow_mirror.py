"""What MLflow is sent of a training and of the report, and the form that a model takes there."""

import base64
import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pandas as pd

from resources.mlflow_client import MODEL_TAG, Server
from rkd_pipeline import __version__
from rkd_pipeline.operations.champions import EXAMPLE, example_image
from rkd_pipeline.operations.gate import deciding_rule, honest_threshold
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages.anomaly_scores import FIGURES, read_metrics
from rkd_pipeline.stages.datasets import read_verified_split
from rkd_pipeline.stages.trained_model import read_history
from rkd_pipeline.store.files import link_or_copy
from rkd_pipeline.store.result_store import Ref, Result, Store
from rkd_pipeline.store.stage_versions import SPLIT


def send_report(store: Store, server: Server, report: Result, tags: dict[str, str]) -> str:
    """A run with the report, and the tables and figures in it; returns its id."""
    run_id = str(server.client.create_run(server.experiment, run_name="report", tags=tags).info.run_id)
    shown = [store.find(Ref(name)) for name in report.provenance.inputs]
    for result in [report, *filter(None, shown)]:
        server.client.log_artifacts(run_id, str(result.folder), result.provenance.stage)
    server.client.set_terminated(run_id)
    return run_id


def send_training(store: Store, server: Server, model: Result, metrics: Result, tags: dict[str, str]) -> str:
    """A run with parameters, curves, metrics, figures, dataset and model; returns its id. It is FINISHED last."""
    import mlflow
    from mlflow.entities import Param

    target_name, training = model.provenance.key
    client = server.client
    began, ended = _times(model)
    about = _tags(store, model, metrics)
    run = client.create_run(
        server.experiment, start_time=began, run_name=f"{target_name} {training}", tags=tags | about
    )
    run_id = str(run.info.run_id)
    client.log_batch(run_id, params=[Param(name, str(value)) for name, value in _parameters(model).items()])
    _log_curves(client, run_id, model)
    for figure in FIGURES:
        client.log_artifact(run_id, str(metrics.folder / figure), "figures")
    with tempfile.TemporaryDirectory(dir=store.root, prefix=".export-") as temporary, mlflow.start_run(run_id):
        dataset = _dataset(store, model)
        mlflow.log_input(dataset, context="training and test")
        folder = Path(temporary)
        _export(store, model, metrics, folder)
        model_id = log_model(folder, about)
        mlflow.log_metrics(_metric_values(metrics), model_id=model_id, dataset=dataset)
        client.set_tag(run_id, MODEL_TAG, model_id)
    client.set_terminated(run_id, end_time=ended)  # when the training ended, not its mirror
    return run_id


def _times(model: Result) -> tuple[int, int]:
    """When the training began and ended, in ms since 1970."""
    environment = model.provenance.environment
    ended = datetime.fromisoformat(environment["finished"]).timestamp() * 1000
    return int(ended - 1000 * environment["seconds"]), int(ended)


def _tags(store: Store, model: Result, metrics: Result) -> dict[str, str]:
    target_name, training = model.provenance.key
    key = TrainingKey.parse(training)
    rows = read_metrics(metrics)
    threshold = rows.loc[
        (rows["metric"] == "threshold") & (rows["score_rule"] == deciding_rule(training)), "protocol"
    ].iloc[0]
    folders = [result.folder.relative_to(store.root) for result in (model, metrics)]
    return {
        "rkd.target": target_name,
        "rkd.training": training,
        "rkd.recipe": key.recipe.name,
        "rkd.teacher": str(key.teacher),
        "rkd.seed": str(key.seed),
        "rkd.repeat": str(key.repeat),
        "rkd.threshold": threshold,
        "rkd.code_version": f"{model.provenance.environment['versions']['rkd-pipeline']}, "
        f"trained_model {model.provenance.stage_version}, metrics {metrics.provenance.stage_version}",
        "rkd.data_version": model.provenance.inputs[f"split[{target_name}]"],
        "mlflow.note.content": f"**{target_name}**, {key.recipe.summary}; teacher {key.teacher}, {key.epochs} epochs, "
        f"seed {key.seed}, repeat {key.repeat}.\n\nIn the store: `{folders[0]}`, `{folders[1]}`",
    }


def _parameters(model: Result) -> dict[str, Any]:
    given = dict(model.provenance.parameters)
    recipe = {f"recipe.{k}": v for k, v in given.pop("recipe").items()}
    facts = {k: model.facts[k] for k in ("train_pictures", "validation_pictures", "lambda", "device")}
    return given | recipe | facts


def _log_curves(client: Any, run_id: str, model: Result) -> None:
    from mlflow.entities import Metric

    ended = _times(model)[1]
    points = [
        Metric(name, float(value), ended, int(epoch))
        for name in ("train_loss", "validation_loss")
        for epoch, value in read_history(model)[["epoch", name]].dropna().itertuples(index=False)
    ]
    for start in range(0, len(points), 1000):  # MLflow takes at most 1000 in one request
        client.log_batch(run_id, metrics=points[start : start + 1000])


def _dataset(store: Store, model: Result) -> Any:
    """The repeat of the split that a training read: one row per image and its part."""
    import mlflow

    target_name, training = model.provenance.key
    split = store.require(SPLIT, target_name)
    rows = read_verified_split(split)
    repeat = rows[rows["repeat"] == TrainingKey.parse(training).repeat]
    source = str(split.folder / "split.parquet")
    return mlflow.data.from_pandas(repeat, source=source, name=target_name, digest=split.data_version)


def _metric_values(metrics: Result) -> dict[str, float]:
    rows = read_metrics(metrics).dropna(subset=["value"])
    return {f"{r.metric}.{r.score_rule}": float(r.value) for r in rows.itertuples()}


def _export(store: Store, model: Result, metrics: Result, folder: Path) -> None:
    """What ``log_model`` logs, for a training: the scorer's files, and an image as example."""
    from rkd_pipeline.stages.export import export_model

    export_model(store, model, honest_threshold(metrics), folder)
    (folder / EXAMPLE).write_bytes(example_image(store, metrics))


def log_model(folder: Path, tags: dict[str, str]) -> str:
    """Log a scorer's files as a model; where MLflow keeps artifacts on this file system, weights become links."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    from rkd_pipeline.detectors.exported_model import CARD, STUDENT, TEACHER

    # The model refuses what is no table of images in words of its own. A required column would be missed by MLflow
    # first, which answers with the data that it was sent.
    inputs = Schema([ColSpec("string", "picture", required=False)])
    outputs = [
        ColSpec("double", "score"),
        ColSpec("double", "threshold", required=False),
        ColSpec("boolean", "anomalous", required=False),
        ColSpec(Array(Array(DataType.double)), "map", required=False),
    ]
    signature = ModelSignature(inputs, Schema(outputs), ParamSchema([ParamSpec("maps", "boolean", True)]))
    encoded = base64.b64encode((folder / EXAMPLE).read_bytes()).decode()
    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(Path(__file__).with_name("mlflow_scorer.py")),
        artifacts={  # as addresses: MLflow would unquote a path that has a % in it
            role: (folder / name).as_uri()
            for role, name in (("student", STUDENT), ("teacher", TEACHER), ("card", CARD))
        },
        signature=signature,
        input_example=pd.DataFrame({"picture": [f"data:image/jpeg;base64,{encoded}"]}),
        pip_requirements=[f"rkd-pipeline=={__version__}"],
        tags={name: value for name, value in tags.items() if name.startswith("rkd.")},
    )
    _replace_by_links(info.artifact_path, folder)
    return str(info.model_id)


def _replace_by_links(location: str, exported: Path) -> None:
    address = urlsplit(location)
    if address.scheme != "file":
        return
    for copy in Path(url2pathname(address.path)).rglob("*.safetensors"):
        linked = copy.with_suffix(".link.tmp")
        link_or_copy(exported / copy.name, linked)
        os.replace(linked, copy)
