"""MLflow as a mirror of the store: a flat run per training, with parameters, curves, metrics, figures and the model,
and one per report, with its tables and figures.

The store is the truth and is complete before anything is sent. A mirror that fails is missing, not wrong: it is sent
again by materialising ``mlflow_run``.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from rkd_pipeline import __version__
from rkd_pipeline.files import link_or_copy, text_sha256, write_atomically
from rkd_pipeline.flow import METRICS, REPORT, SPLIT, TRAINED_MODEL
from rkd_pipeline.stages.data import read_verified_split
from rkd_pipeline.stages.evaluation import FIGURES, read_metrics, value_of
from rkd_pipeline.stages.tables import TRACKING_FOLDER, tracking_file
from rkd_pipeline.stages.training import read_history
from rkd_pipeline.store import Ref, Result, Store
from rkd_pipeline.training_key import TrainingKey

EXPERIMENT = "rkd-pipeline"
CONTENT_TAG = "rkd.content"  # says what a run mirrors
# A server that is away must not hold up a benchmark: seconds, not MLflow's minutes.
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_CONFIGURE_LOGGING": "false",
}


class TrackingError(Exception):
    """MLflow could not be reached or did not take what was sent."""


class MlflowTracking(dg.ConfigurableResource):
    """Sends finished trainings to MLflow.

    ``uri`` is a tracking server; empty means the embedded one: sqlite and a folder of artifacts in the store.
    """

    uri: str = ""

    def tracking_uri(self, store: Store) -> str:
        """Where runs go."""
        return self.uri or f"sqlite:///{store.mlflow_folder / 'mlflow.db'}"

    def prepare(self, store: Store) -> str:
        """The experiment's id; creates database and experiment once, one process at a time."""
        with _reachable(), store.lock("mlflow"):
            import mlflow

            store.mlflow_folder.mkdir(parents=True, exist_ok=True)
            client = mlflow.MlflowClient(self.tracking_uri(store))
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is not None:
                return str(found.experiment_id)
            # Named explicitly: a direct sqlite client would put artifacts into the current folder. A server decides.
            location = None if self.uri else (store.mlflow_folder / "artifacts").as_uri()
            return str(client.create_experiment(EXPERIMENT, artifact_location=location))

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

    def _once(self, store: Store, record: Path, versions: str, send: Callable[[str, str], str]) -> str:
        """The run id on record for this content, or that of a run that ``send`` makes from experiment and content."""
        content = text_sha256(f"{self.tracking_uri(store)} {versions}")[:16]
        if record.exists():
            sent = json.loads(record.read_text(encoding="utf-8"))
            if sent["content"] == content:
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
        for partial in client.search_runs([experiment], f"tags.`{CONTENT_TAG}` = '{content}'"):
            client.delete_run(partial.info.run_id)
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

        target_name, training = model.provenance.key
        key = TrainingKey.parse(training)
        client = self._client(store, experiment, tags[CONTENT_TAG])
        tags |= {
            "rkd.target": target_name,
            "rkd.training": training,
            "rkd.recipe": key.recipe.name,
            "rkd.teacher": str(key.teacher),
            "rkd.seed": str(key.seed),
            "rkd.repeat": str(key.repeat),
            "rkd.code_version": f"{model.provenance.environment['versions']['rkd-pipeline']}, "
            f"trained_model {model.provenance.stage_version}, metrics {metrics.provenance.stage_version}",
            "rkd.data_version": model.provenance.inputs[f"split[{target_name}]"],
        }
        run = client.create_run(experiment, run_name=f"{target_name} {training}", tags=tags)
        with mlflow.start_run(run_id=run.info.run_id):
            mlflow.log_params(_parameters(model))
            _log_curves(client, run.info.run_id, model)
            _log_dataset(store, target_name, key)
            for figure in FIGURES:
                mlflow.log_artifact(str(metrics.folder / figure), "figures")
            model_id = _log_model(store, model, metrics)
            mlflow.log_metrics(_metric_values(metrics), model_id=model_id)
        return str(run.info.run_id)


def _parameters(model: Result) -> dict[str, Any]:
    given = dict(model.provenance.parameters)
    recipe = {f"recipe.{k}": v for k, v in given.pop("recipe").items()}
    facts = {k: model.facts[k] for k in ("train_pictures", "validation_pictures", "lambda", "device")}
    return given | recipe | facts


def _log_curves(client: Any, run_id: str, model: Result) -> None:
    from mlflow.entities import Metric

    points = [
        Metric(name, float(value), 0, int(epoch))
        for name in ("train_loss", "validation_loss")
        for epoch, value in read_history(model)[["epoch", name]].dropna().itertuples(index=False)
    ]
    for start in range(0, len(points), 1000):  # MLflow takes at most 1000 in one request
        client.log_batch(run_id, metrics=points[start : start + 1000])


def _log_dataset(store: Store, target_name: str, key: TrainingKey) -> None:
    import mlflow

    split = store.require(SPLIT, target_name)
    rows = read_verified_split(split)
    repeat = rows[rows["repeat"] == key.repeat]
    dataset = mlflow.data.from_pandas(
        repeat, source=str(split.folder / "split.parquet"), name=target_name, digest=split.data_version
    )
    mlflow.log_input(dataset, context="training")


def _metric_values(metrics: Result) -> dict[str, float]:
    rows = read_metrics(metrics).dropna(subset=["value"])
    return {f"{r.metric}.{r.score_rule}": float(r.value) for r in rows.itertuples()}


def _log_model(store: Store, model: Result, metrics: Result) -> str:
    """Log the model with its weights; where MLflow keeps artifacts on this file system, they are links, not copies."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    from rkd_pipeline.scorer import CARD, STUDENT, TEACHER, export_scorer

    recipe = TrainingKey.parse(model.provenance.key[1]).recipe
    columns = [ColSpec("double", rule) for rule in recipe.score_rules]
    outputs = Schema([*columns, ColSpec("boolean", "anomalous", required=False)])
    signature = ModelSignature(Schema([ColSpec("string", "picture")]), outputs)
    with tempfile.TemporaryDirectory(dir=store.root, prefix=".export-") as temporary:
        folder = Path(temporary)
        export_scorer(store, model, value_of(read_metrics(metrics), "threshold", recipe.own_score), folder)
        names = {"student": STUDENT, "teacher": TEACHER, "card": CARD}
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("mlflow_scorer.py")),
            artifacts={role: str(folder / file) for role, file in names.items()},
            signature=signature,
            pip_requirements=[f"rkd-pipeline=={__version__}"],
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
