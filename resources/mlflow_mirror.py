"""What MLflow is sent of a training and of the report, and the form that a model takes there."""

import base64
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pandas as pd

from resources.carried_code import carried_files, copy_code, requirements
from resources.epoch_journal import Journal
from resources.mlflow_client import BEGUN_TAG, CONTENT_TAG, MODEL_TAG, Server
from resources.mlflow_once import Item, Sending, find_run
from rkd_pipeline.data.split import few_of
from rkd_pipeline.models.architectures import computed_imports
from rkd_pipeline.operations.champions import EXAMPLE, example_image
from rkd_pipeline.operations.gate import deciding_rule, honest_threshold
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages.anomaly_scores import FIGURES, read_metrics
from rkd_pipeline.stages.datasets import read_verified_split
from rkd_pipeline.stages.mirror_records import (
    mirror_marks,
    read_tracking,
    report_record,
    tracking_contents,
    tracking_file,
)
from rkd_pipeline.stages.trained_model import read_history, training_parameters
from rkd_pipeline.store.files import canonical_json, link_or_copy, text_sha256
from rkd_pipeline.store.result_store import Ref, Result, Store
from rkd_pipeline.store.stage_versions import METRICS, REPORT, SPLIT, TRAINED_MODEL

_SCORER = Path(__file__).with_name("mlflow_scorer.py")
_LOSSES = ("train_loss", "validation_loss")
_AT_MOST = 1000  # metrics that MLflow takes in one request


@dataclass(frozen=True)
class Begun:
    """A training as it is known when it begins: what its MLflow run is made with, and known again by."""

    name: str
    mark: str
    tags: dict[str, str]
    parameters: dict[str, str]


@dataclass(frozen=True)
class Point:
    """A loss after an epoch, at a time in ms since 1970."""

    name: str
    epoch: int
    value: float
    time: int


@dataclass(frozen=True)
class Training:
    """A finished training, all that MLflow is sent of it; the model's files lie in ``model``."""

    begun: Begun
    began: int
    ended: int
    tags: dict[str, str]
    parameters: dict[str, str]
    losses: list[Point]
    parts: dict[str, pd.DataFrame]
    split: Result
    figures: list[Path]
    metrics: dict[str, float]
    model: Path


def training_item(store: Store, target_name: str, training: str) -> Item:
    """A finished training. Raises ``StoreError`` where it is not there, or not up to date."""
    model = store.require(TRAINED_MODEL, target_name, training)
    metrics = store.require(METRICS, target_name, training)
    record = tracking_file(store, target_name, training)
    marks = tracking_contents(store, read_tracking(record), target_name, training)

    @contextmanager
    def prepared() -> Iterator[Sending]:
        with gathered(store, model, metrics, Journal.beside(record)) as content:
            yield Sending(
                lambda server, tags, run: send_training(server, content, tags, run),
                lambda server, run: can_go_on(server, content, run),
            )

    def sent() -> None:
        Journal.beside(record).delete()

    return Item(record, marks, lambda server, known: find_run(server, known, marks[0], with_model=True), prepared, sent)


def report_item(store: Store) -> Item:
    """The report. Raises ``StoreError`` where it is not there, or not up to date."""
    report = store.require(REPORT)
    record = report_record(store)
    marks = mirror_marks(read_tracking(record), report.data_version, "report")
    sending = Sending(lambda server, tags, _: _send_report(store, server, report, tags))
    return Item(record, marks, lambda server, known: find_run(server, known, marks[0]), lambda: nullcontext(sending))


def _send_report(store: Store, server: Server, report: Result, tags: dict[str, str]) -> str:
    """A run with the report, and the tables and figures in it; returns its id."""
    run_id = str(server.client.create_run(server.experiment, run_name="report", tags=tags).info.run_id)
    shown = [store.find(Ref(name)) for name in report.provenance.inputs]
    for result in [report, *filter(None, shown)]:
        server.client.log_artifacts(run_id, str(result.folder), result.provenance.stage)
    server.client.set_terminated(run_id)
    return run_id


def begun_training(store: Store, target_name: str, training: str, trained_with: Mapping[str, Any]) -> Begun:
    """What is known of a training before its first epoch; its split must be in the store.

    ``trained_with`` are parameters as ``training_parameters`` gives them; others in it are left out.
    """
    key = TrainingKey.parse(training)
    split = store.require(SPLIT, target_name).data_version
    named = {name: trained_with[name] for name in training_parameters(key) if name in trained_with}
    parameters: dict[str, Any] = json.loads(canonical_json(named))  # as the store gives them back
    tags = {
        "rkd.target": target_name,
        "rkd.training": training,
        "rkd.recipe": key.recipe.name,
        "rkd.teacher": str(key.teacher),
        "rkd.seed": str(key.seed),
        "rkd.repeat": str(key.repeat),
        "rkd.data_version": split,
    }
    mark = text_sha256(canonical_json([target_name, training, TRAINED_MODEL.version, parameters, split]))[:16]
    return Begun(f"{target_name} {training}", mark, tags, _flat(parameters))


def begin_run(server: Server, begun: Begun, began: int, tags: dict[str, str]) -> str:
    """A run that is going on, with the parameters of its training; returns its id."""
    from mlflow.entities import Param

    run = server.client.create_run(
        server.experiment,
        start_time=began,
        run_name=begun.name,
        tags=tags | begun.tags | {BEGUN_TAG: begun.mark},
    )
    run_id = str(run.info.run_id)
    server.client.log_batch(run_id, params=[Param(name, value) for name, value in begun.parameters.items()])
    return run_id


def is_of(begun: Begun, run: Any) -> bool:
    """Whether a run was begun by this training, and holds nothing yet of what comes after its last epoch."""
    return run.data.tags.get(BEGUN_TAG) == begun.mark and CONTENT_TAG not in run.data.tags


def log_losses(server: Server, run_id: str, points: Iterable[Point]) -> None:
    """Add points to the curves of a run; those that are there already are not sent again."""
    from mlflow.entities import Metric

    known = _logged(server, run_id)
    new = [Metric(p.name, p.value, p.time, p.epoch) for p in points if (p.name, p.epoch) not in known]
    for start in range(0, len(new), _AT_MOST):
        server.client.log_batch(run_id, metrics=new[start : start + _AT_MOST])


def _logged(server: Server, run_id: str) -> dict[tuple[str, int], float]:
    """Losses of a run, by name and epoch."""
    found = (m for name in _LOSSES for m in server.client.get_metric_history(run_id, name))
    return {(m.key, m.step): m.value for m in found}


def loss_points(epoch: int, losses: Mapping[str, float | None], time: int) -> list[Point]:
    """An epoch's points; a loss that the recipe has not is none."""
    values = ((name, losses[name]) for name in _LOSSES)
    return [
        Point(name, epoch, float(value), time) for name, value in values if value is not None and not pd.isna(value)
    ]


@contextmanager
def gathered(store: Store, model: Result, metrics: Result, journal: Journal) -> Iterator[Training]:
    """All that MLflow is sent of a training: the work that is ours, done before anything is sent."""
    target_name, training = model.provenance.key
    began, ended = _times(model)
    begun = begun_training(store, target_name, training, model.provenance.parameters)
    times = journal.times(begun.mark)
    rows = read_history(model).to_dict("records")
    losses = [point for row in rows for point in loss_points(row["epoch"], row, times.get(row["epoch"], ended))]
    split = store.require(SPLIT, target_name)
    with tempfile.TemporaryDirectory(dir=store.root, prefix=".export-") as temporary:
        folder = Path(temporary)
        _export(store, model, metrics, folder)
        yield Training(
            begun=begun,
            began=min([began, *times.values()]),
            ended=ended,
            tags=begun.tags | _result_tags(store, model, metrics),
            parameters=_flat(model.provenance.parameters) | _facts(model),
            losses=losses,
            parts=_parts(split, TrainingKey.parse(training)),
            split=split,
            figures=[metrics.folder / figure for figure in FIGURES],
            metrics=_metric_values(metrics),
            model=folder,
        )


def can_go_on(server: Server, training: Training, run: Any) -> bool:
    """Whether a run that was begun is of this very training: what it has of the curves is what the store has."""
    known = {(p.name, p.epoch): p.value for p in training.losses}
    return is_of(training.begun, run) and _logged(server, run.info.run_id).items() <= known.items()


def send_training(server: Server, training: Training, tags: dict[str, str], begun_run: Any | None) -> str:
    """A run with parameters, curves, metrics, figures, datasets and model; returns its id. It is FINISHED last.

    ``begun_run``: goes on with that one, which ``can_go_on``.
    """
    import mlflow
    from mlflow.entities import Param, RunTag

    client = server.client
    run_id = str(begun_run.info.run_id) if begun_run else begin_run(server, training.begun, training.began, tags)
    client.log_batch(
        run_id,
        params=[Param(name, value) for name, value in training.parameters.items()],
        tags=[RunTag(name, value) for name, value in (tags | training.tags).items()],
    )
    log_losses(server, run_id, training.losses)
    for figure in training.figures:
        client.log_artifact(run_id, str(figure), "figures")
    mlflow.set_tracking_uri(server.uri)
    with mlflow.start_run(run_id):
        datasets = _log_datasets(training)
        model_id = log_model(training.model, training.tags)
        mlflow.log_metrics(training.metrics, model_id=model_id, dataset=datasets["testing"])
        client.set_tag(run_id, MODEL_TAG, model_id)
    client.set_terminated(run_id, end_time=training.ended)  # when the training ended, not its mirror
    return run_id


def _log_datasets(training: Training) -> dict[str, Any]:
    """The parts of the split that a training used, each as a dataset of the run, by what it was used for."""
    import mlflow

    found = {}
    for context, rows in training.parts.items():
        # MLflow knows a dataset again by name and digest: other images must give another one.
        digest = text_sha256("\n".join(rows["image_id"]))[:16]
        name, source = f"{training.tags['rkd.target']} {context}", str(training.split.folder / "split.parquet")
        found[context] = mlflow.data.from_pandas(rows, source=source, name=name, digest=digest)
        mlflow.log_input(found[context], context=context)
    return found


def _parts(split: Result, key: TrainingKey) -> dict[str, pd.DataFrame]:
    """Rows of the split by what a training uses them for: one per image, of its repeat."""
    rows = read_verified_split(split)
    rows = rows[rows["repeat"] == key.repeat].sort_values("image_id")
    recipe = key.recipe
    used = {"training": recipe.training_parts, "testing": ("test",)}
    used |= {"validation": ("validation",)} if recipe.held_out else {}
    used |= {"calibration": ("calibration",)} if recipe.calibrates else {}
    of_parts = {context: rows[rows["part"].isin(parts)] for context, parts in used.items()}
    learnt = few_of(list(of_parts["training"]["image_id"]), recipe.shots, key.seed)
    return of_parts | {"training": of_parts["training"][of_parts["training"]["image_id"].isin(learnt)]}


def _times(model: Result) -> tuple[int, int]:
    """When the training began and ended, in ms since 1970; of one that was resumed, its last part."""
    environment = model.provenance.environment
    ended = datetime.fromisoformat(environment["finished"]).timestamp() * 1000
    return int(ended - 1000 * environment["seconds"]), int(ended)


def _result_tags(store: Store, model: Result, metrics: Result) -> dict[str, str]:
    target_name, training = model.provenance.key
    key = TrainingKey.parse(training)
    rows = read_metrics(metrics)
    threshold = rows.loc[
        (rows["metric"] == "threshold") & (rows["score_rule"] == deciding_rule(training)), "protocol"
    ].iloc[0]
    folders = [result.record.name for result in (model, metrics)]
    return {
        "rkd.threshold": threshold,
        "rkd.code_version": f"{model.provenance.environment['versions']['rkd-pipeline']}, "
        f"trained_model {model.provenance.stage_version}, metrics {metrics.provenance.stage_version}",
        "mlflow.note.content": f"**{target_name}**, {key.recipe.summary}; teacher {key.teacher}, {key.epochs} epochs, "
        f"seed {key.seed}, repeat {key.repeat}.\n\nIn the store: `{folders[0]}`, `{folders[1]}`",
    }


def _flat(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Parameters as MLflow has them: text, those of the recipe by its name."""
    recipe = {f"recipe.{name}": value for name, value in parameters["recipe"].items()}
    others = {name: value for name, value in parameters.items() if name != "recipe"}
    return {name: str(value) for name, value in (others | recipe).items()}


def _facts(model: Result) -> dict[str, str]:
    return {k: str(model.facts[k]) for k in ("train_pictures", "validation_pictures", "lambda", "device")}


def _metric_values(metrics: Result) -> dict[str, float]:
    rows = read_metrics(metrics).dropna(subset=["value"])
    return {f"{r.metric}.{r.score_rule}": float(r.value) for r in rows.itertuples()}


def _export(store: Store, model: Result, metrics: Result, folder: Path) -> None:
    """What ``log_model`` logs, for a training: the scorer's files, and an image as example."""
    from rkd_pipeline.stages.export import export_model

    export_model(store, model, honest_threshold(metrics), folder)
    (folder / EXAMPLE).write_bytes(example_image(store, metrics))


def log_model(folder: Path, tags: dict[str, str]) -> str:
    """Log a scorer's files, with the code that loads them, as a model; returns its id.

    Where MLflow keeps artifacts on this file system, weights become links.
    """
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
    key = TrainingKey.parse(tags["rkd.training"])
    by_name = [f"rkd_pipeline.detectors.{key.recipe.system}", *computed_imports(key.teacher.arch)]
    files = carried_files(_SCORER, by_name)
    with tempfile.TemporaryDirectory(prefix="rkd-") as code, _import_path_kept():
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(_SCORER),
            artifacts={  # as addresses: MLflow would unquote a path that has a % in it
                role: (folder / name).as_uri()
                for role, name in (("student", STUDENT), ("teacher", TEACHER), ("card", CARD))
            },
            signature=signature,
            input_example=pd.DataFrame({"picture": [f"data:image/jpeg;base64,{encoded}"]}),
            code_paths=[str(copy_code(files, Path(code)))],
            pip_requirements=requirements([_SCORER, *files]),
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


@contextmanager
def _import_path_kept() -> Iterator[None]:
    """MLflow tries the model, and leaves the folder of its code at the head of the path, for good."""
    before = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = before
