"""MLflow as a mirror of the store: a flat run per training, with parameters, curves, metrics, figures and the model,
one per report, with its tables and figures, and a registered model per target, whose alias is its champion.

The store is the truth and is complete before anything is sent. A mirror that fails is missing, not wrong: ``rkd
mirror``, or the job ``mirror_to_mlflow``, sends what is missing.
"""

import base64
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import requests

from rkd_pipeline import __version__
from rkd_pipeline.addresses import browsable
from rkd_pipeline.champion import EXAMPLE, Reign, example_picture, reigns, targets_with_champions
from rkd_pipeline.files import link_or_copy, text_sha256, write_atomically
from rkd_pipeline.flow import METRICS, REPORT, SPLIT, TRAINED_MODEL
from rkd_pipeline.gate import deciding_rule, honest_threshold
from rkd_pipeline.stages.data import read_verified_split
from rkd_pipeline.stages.evaluation import FIGURES, read_metrics
from rkd_pipeline.stages.tables import TRACKING_FOLDER, measured_results, tracking_file
from rkd_pipeline.stages.training import read_history
from rkd_pipeline.store import Ref, Result, Store
from rkd_pipeline.training_key import TrainingKey

EXPERIMENT = "rkd-pipeline"
ABOUT = (
    "One run per training, flat. Filter by tags: `tags.\"rkd.target\" = 'demo.weave'`, `rkd.recipe`, `rkd.teacher`, "
    "`rkd.seed`, `rkd.repeat`; compare runs to lay their curves over each other. A mirror: the store is the truth."
)
CONTENT_TAG = "rkd.content"  # says what a run mirrors
MODEL_TAG = "rkd.mlflow_model"
ALIAS = "champion"
PROBE_SECONDS = 5.0
# A server that is away must not hold up a benchmark: seconds, not MLflow's minutes.
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class TrackingError(Exception):
    """MLflow could not be reached or did not take what was sent."""


class TrackingAway(TrackingError):
    """MLflow's server does not answer: nothing else need be tried for now."""


@dataclass(frozen=True)
class Sent:
    """Something that MLflow has now: a training's run, the report's, or a champion's version of a registered model."""

    what: str
    mlflow_id: str
    training: tuple[str, str] | None = None


class MlflowTracking(dg.ConfigurableResource):
    """Sends finished trainings to MLflow.

    ``uri`` is a tracking server; empty means the embedded one: sqlite and a folder of artifacts in the store.
    ``pages`` is where the embedded one is served for people.
    """

    uri: str = ""
    pages: str = "http://127.0.0.1:5000"

    def page(self, path: str) -> str | None:
        """Address of a page such as ``runs/<id>``; None where the tracking URI is no web address."""
        served = self.uri or self.pages
        return f"{browsable(served)}/#/{path}" if served.startswith(("http://", "https://")) else None

    def tracking_uri(self, store: Store) -> str:
        """Where runs go."""
        return self.uri or f"sqlite:///{store.mlflow_folder / 'mlflow.db'}"

    def prepare(self, store: Store) -> str:
        """The experiment's id; creates database and experiment once, one process at a time."""
        self._probe()
        with _reachable(), store.lock("mlflow"):
            import mlflow

            store.mlflow_folder.mkdir(parents=True, exist_ok=True)
            client = mlflow.MlflowClient(self.tracking_uri(store))
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is not None:
                return str(found.experiment_id)
            # Named explicitly: a direct sqlite client would put artifacts into the current folder. A server decides.
            location = None if self.uri else (store.mlflow_folder / "artifacts").as_uri()
            note = {"mlflow.note.content": ABOUT}
            return str(client.create_experiment(EXPERIMENT, artifact_location=location, tags=note))

    def _probe(self) -> None:
        """Raise ``TrackingAway`` unless the server answers at all: seconds, where MLflow's own call takes a minute."""
        if not self.uri.startswith(("http://", "https://")):
            return
        try:
            requests.get(f"{self.uri.rstrip('/')}/health", timeout=PROBE_SECONDS)
        except (requests.ConnectionError, requests.Timeout) as error:
            if isinstance(error, requests.exceptions.SSLError):
                return  # it is there; MLflow has settings of its own for certificates
            raise TrackingAway(f"no answer from the tracking server within {PROBE_SECONDS:.0f} s") from error

    def mirror(self, store: Store, target_name: str, training: str, tags: dict[str, str]) -> str:
        """Send one training; returns its MLflow run id. What was sent before is not sent again.

        Raises ``TrackingError`` where MLflow is away or refuses; the next call starts that run afresh.
        """
        model = store.require(TRAINED_MODEL, target_name, training)
        metrics = store.require(METRICS, target_name, training)
        return self._once(
            store,
            tracking_file(store, target_name, training),
            f"{model.data_version} {metrics.data_version}",
            lambda experiment, content: self._send(store, model, metrics, experiment, tags | {CONTENT_TAG: content}),
        )

    def mirror_report(self, store: Store, tags: dict[str, str]) -> str:
        """Send the report, and the tables and figures in it; returns its MLflow run id. Raises as ``mirror`` does."""
        report = store.require(REPORT)
        return self._once(
            store,
            store.root / TRACKING_FOLDER / "report.json",
            report.data_version,
            lambda experiment, content: self._send_report(store, report, experiment, tags | {CONTENT_TAG: content}),
        )

    def mirror_champions(self, store: Store, target_name: str, tags: dict[str, str]) -> str:
        """Register every champion that a target has had, and move the alias to who reigns; returns that version.

        Raises as ``mirror`` does. A version that is there already is not made again.
        """
        versions = [
            self._once(
                store,
                store.root / TRACKING_FOLDER / "champions" / target_name / f"{reign.number:04d}.json",
                f"champion {target_name} {reign.number} {reign.model}",
                partial(self._register, store, reign, tags),
            )
            for reign in reigns(store, target_name)
        ]
        self._probe()
        with _reachable():
            import mlflow

            client = mlflow.MlflowClient(self.tracking_uri(store))
            if self._alias(client, target_name) != versions[-1]:
                client.set_registered_model_alias(target_name, ALIAS, versions[-1])
        return versions[-1]

    def _alias(self, client: Any, target_name: str) -> str:
        return str(client.get_registered_model(target_name).aliases.get(ALIAS))

    def mirror_missing(self, store: Store, tags: dict[str, str]) -> Iterator[Sent | TrackingError]:
        """Send what MLflow lacks: finished trainings, the report, champions. Yields each, or what went wrong with it.

        Ends where the server does not answer.
        """
        work: list[tuple[str, tuple[str, str] | None, Callable[[], str]]] = []
        for result in measured_results(store)[0]:
            target_name, training = result.provenance.key
            if not self.is_sent(store, target_name, training):
                send = partial(self.mirror, store, target_name, training, tags)
                work.append((f"{target_name} {training}", (target_name, training), send))
        report = store.find(Ref(REPORT.name))
        if report is not None and not store.why_stale(report):
            work.append(("report", None, partial(self.mirror_report, store, tags)))
        work += [
            (f"champion of {name}", None, partial(self.mirror_champions, store, name, tags))
            for name in targets_with_champions(store)
        ]
        for what, cell, attempt in work:
            try:
                yield Sent(what, attempt(), cell)
            except TrackingError as error:
                yield type(error)(f"{what}: {error}")
                if isinstance(error, TrackingAway):
                    return

    def is_sent(self, store: Store, target_name: str, training: str) -> bool:
        """Whether MLflow has a training as it is in the store now."""
        record = _read(tracking_file(store, target_name, training))
        model, metrics = (store.find(Ref(s.name, target_name, training)) for s in (TRAINED_MODEL, METRICS))
        if record is None or model is None or metrics is None:
            return False
        return bool(record["content"] == self._content(store, f"{model.data_version} {metrics.data_version}"))

    def _content(self, store: Store, versions: str) -> str:
        return text_sha256(f"{self.tracking_uri(store)} {versions}")[:16]

    def _once(self, store: Store, record: Path, versions: str, send: Callable[[str, str], str]) -> str:
        """The id on record for this content, or that of what ``send`` makes from experiment and content."""
        content = self._content(store, versions)
        sent = _read(record)
        if sent is not None and sent["content"] == content:
            return str(sent["run_id"])
        experiment = self.prepare(store)
        with _reachable():
            run_id = send(experiment, content)
        write_atomically(
            record, json.dumps({"run_id": run_id, "content": content, "uri": self.tracking_uri(store)}).encode()
        )
        return run_id

    def _client(self, store: Store, experiment: str, content: str) -> Any:
        """A client, after what a broken attempt at the same content has left was deleted."""
        import mlflow

        mlflow.set_tracking_uri(self.tracking_uri(store))
        client = mlflow.MlflowClient()
        for broken in client.search_runs([experiment], f"tags.`{CONTENT_TAG}` = '{content}'"):
            run_id = broken.info.run_id
            for model in client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'"):
                client.delete_logged_model(model.model_id)
            client.delete_run(run_id)
        return client

    def _send_report(self, store: Store, report: Result, experiment: str, tags: dict[str, str]) -> str:
        client = self._client(store, experiment, tags[CONTENT_TAG])
        run_id = str(client.create_run(experiment, run_name="report", tags=tags).info.run_id)
        shown = [store.find(Ref(name)) for name in report.provenance.inputs]
        for result in [report, *filter(None, shown)]:
            client.log_artifacts(run_id, str(result.folder), result.provenance.stage)
        client.set_terminated(run_id)
        return run_id

    def _send(self, store: Store, model: Result, metrics: Result, experiment: str, tags: dict[str, str]) -> str:
        import mlflow
        from mlflow.entities import Param

        target_name, training = model.provenance.key
        client = self._client(store, experiment, tags[CONTENT_TAG])
        began, ended = _times(model)
        run = client.create_run(
            experiment, start_time=began, run_name=f"{target_name} {training}", tags=tags | _tags(model, metrics)
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
            model_id = _log_model(folder, _tags(model, metrics))
            mlflow.log_metrics(_metric_values(metrics), model_id=model_id, dataset=dataset)
        client.set_terminated(run_id, end_time=ended)  # when the training ended, not its mirror
        client.set_tag(run_id, MODEL_TAG, model_id)
        return run_id

    def _register(self, store: Store, reign: Reign, given: dict[str, str], experiment: str, content: str) -> str:
        """A version of the target's registered model; the model itself is the training's, where that was mirrored."""
        import mlflow
        from mlflow.exceptions import MlflowException, RestException

        mlflow.set_tracking_uri(self.tracking_uri(store))
        client = mlflow.MlflowClient()
        tags = given | {CONTENT_TAG: content}
        about = (
            f"Scores pictures of {reign.target}. The alias `{ALIAS}` is moved by the gate alone (challenger and "
            "champion on the same repeats, paired per picture, better beyond noise), or by hand, with the reason kept."
        )
        try:
            client.create_registered_model(reign.target, {"rkd.target": reign.target}, about)
        except (MlflowException, RestException) as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        for version in client.search_model_versions(f"name = '{reign.target}'"):
            if version.tags.get(CONTENT_TAG) == tags[CONTENT_TAG]:
                return str(version.version)
        run_id, model_id = self._mirrored_model(store, client, reign) or self._log_reign(store, reign, experiment, tags)
        selected = reign.selected
        version_tags = tags | {
            "rkd.training": reign.training,
            "rkd.reign": str(reign.number),
            "rkd.how": reign.how,
            "rkd.model_data_version": reign.model,
            f"rkd.{selected['protocol']}.{selected['metric']}": f"{selected['value']:.4f}",
        }
        made = client.create_model_version(
            reign.target,
            f"models:/{model_id}",
            run_id=run_id,
            model_id=model_id,
            tags=version_tags,
            description=f"{reign.training}, champion number {reign.number}, {reign.how}: {reign.why}",
        )
        return str(made.version)

    def _mirrored_model(self, store: Store, client: Any, reign: Reign) -> tuple[str, str] | None:
        """Run and logged model of the champion's training, if that very model is what was mirrored."""
        model = store.find(Ref(TRAINED_MODEL.name, reign.target, reign.training))
        if model is None or model.data_version != reign.model or not self.is_sent(store, reign.target, reign.training):
            return None
        record = _read(tracking_file(store, reign.target, reign.training))
        assert record is not None
        model_id = client.get_run(record["run_id"]).data.tags.get(MODEL_TAG)
        return (str(record["run_id"]), model_id) if model_id else None

    def _log_reign(self, store: Store, reign: Reign, experiment: str, tags: dict[str, str]) -> tuple[str, str]:
        """A run for a champion whose training is no longer what it was; the model is the champion's own copy."""
        import mlflow

        client = self._client(store, experiment, tags[CONTENT_TAG])
        named = {"rkd.target": reign.target, "rkd.training": reign.training, "rkd.champion": str(reign.number)}
        run = client.create_run(experiment, run_name=f"champion {reign.number} of {reign.target}", tags=tags | named)
        run_id = str(run.info.run_id)
        with mlflow.start_run(run_id):
            model_id = _log_model(reign.folder, named)
        return run_id, model_id


def _read(record: Path) -> dict[str, Any] | None:
    return json.loads(record.read_text(encoding="utf-8")) if record.exists() else None


def _times(model: Result) -> tuple[int, int]:
    """When the training began and ended, in ms since 1970."""
    environment = model.provenance.environment
    ended = datetime.fromisoformat(environment["finished"]).timestamp() * 1000
    return int(ended - 1000 * environment["seconds"]), int(ended)


def _tags(model: Result, metrics: Result) -> dict[str, str]:
    target_name, training = model.provenance.key
    key = TrainingKey.parse(training)
    rows = read_metrics(metrics)
    threshold = rows.loc[
        (rows["metric"] == "threshold") & (rows["score_rule"] == deciding_rule(training)), "protocol"
    ].iloc[0]
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
        f"seed {key.seed}, repeat {key.repeat}.\n\nIn the store: `{model.folder}`, `{metrics.folder}`",
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
    """The repeat of the split that a training read: one row per picture and its part."""
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
    """What ``_log_model`` logs, for a training: the scorer's files, and a picture as example."""
    from rkd_pipeline.scorer import export_scorer

    export_scorer(store, model, honest_threshold(metrics), folder)
    (folder / EXAMPLE).write_bytes(example_picture(store, metrics))


def _log_model(folder: Path, tags: dict[str, str]) -> str:
    """Log a scorer's files as a model; where MLflow keeps artifacts on this file system, weights become links."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    from rkd_pipeline.scorer import CARD, STUDENT, TEACHER

    outputs = [
        ColSpec("double", "score"),
        ColSpec("double", "threshold", required=False),
        ColSpec("boolean", "anomalous", required=False),
        ColSpec(Array(Array(DataType.double)), "map", required=False),
    ]
    signature = ModelSignature(
        Schema([ColSpec("string", "picture")]), Schema(outputs), ParamSchema([ParamSpec("maps", "boolean", True)])
    )
    encoded = base64.b64encode((folder / EXAMPLE).read_bytes()).decode()
    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(Path(__file__).with_name("mlflow_scorer.py")),
        artifacts={
            role: str(folder / name) for role, name in (("student", STUDENT), ("teacher", TEACHER), ("card", CARD))
        },
        signature=signature,
        input_example=pd.DataFrame({"picture": [f"data:image/jpeg;base64,{encoded}"]}),
        pip_requirements=[f"rkd-pipeline=={__version__}"],
        tags={name: value for name, value in tags.items() if name.startswith("rkd.")},
    )
    _replace_by_links(info.artifact_path, folder)
    return str(info.model_id)


def _replace_by_links(location: str, exported: Path) -> None:
    if not location.startswith("file://"):
        return
    for copy in Path(location.removeprefix("file://")).rglob("*.safetensors"):
        linked = copy.with_suffix(".link.tmp")
        link_or_copy(exported / copy.name, linked)
        os.replace(linked, copy)


@contextmanager
def _reachable() -> Iterator[None]:
    """Short patience and little talk inside; whatever MLflow raises comes out as ``TrackingError``."""
    wanted = _IMPATIENT | _QUIET
    # MLflow writes the address that it is told into the environment, where our settings would read it.
    before = {name: os.environ.get(name) for name in (*wanted, "MLFLOW_TRACKING_URI")}
    os.environ.update(wanted)
    try:
        with warnings.catch_warnings():
            # Hints for interactive use: integer columns, ambiguous sources, no input example.
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # MLflow raises its own, requests', sqlalchemy's and the file system's
        raise TrackingError(f"{type(error).__name__}: {error}") from error
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
