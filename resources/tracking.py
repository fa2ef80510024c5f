"""MLflow as a mirror of the store: a flat run per training, with parameters, curves, metrics, figures and the model,
one per report, with its tables and figures, and a registered model per target, whose alias is its champion.

The store is the truth and is complete before anything is sent. A mirror that fails is missing, not wrong: ``rkd
mirror``, or the job ``mirror_to_mlflow``, sends what is missing. What was sent is on record in the store; whether it is
still there, MLflow is asked each time.
"""

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg

from resources import mlflow_client, mlflow_mirror, mlflow_registry
from resources.mlflow_client import ATTEMPT_TAG, CONTENT_TAG, Server, TrackingAway, TrackingError, reachable
from resources.mlflow_registry import ALIAS
from rkd_pipeline.addresses import browsable, shown, tracking_fault
from rkd_pipeline.operations.champions import Champion, champions_of, targets_with_champions
from rkd_pipeline.stages.benchmark import (
    TRACKING_FOLDER,
    measured_results,
    mirror_marks,
    mlflow_run_id,
    read_tracking,
    tracking_contents,
    tracking_file,
)
from rkd_pipeline.store.files import write_atomically
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import METRICS, REPORT, TRAINED_MODEL

__all__ = ["ALIAS", "MlflowTracking", "Sent", "TrackingAway", "TrackingError"]


@dataclass(frozen=True)
class Sent:
    """Something that MLflow has now: a training's run, the report's, or a champion's version of a registered model."""

    what: str
    mlflow_id: str
    training: tuple[str, str] | None = None


@dataclass(frozen=True)
class _Item:
    """Something to mirror.

    Attributes:
        record: the file that says what was sent.
        marks: of its content as it is now, see ``mirror_marks``.
        find: MLflow's id of something whole under one of the marks, or under the id on record.
        send: sends it under the given tags; returns MLflow's id.
    """

    record: Path
    marks: tuple[str, ...]
    find: Callable[[Server, str | None], str | None]
    send: Callable[[Server, dict[str, str]], str]


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

    def is_embedded(self, store: Store) -> bool:
        """Whether runs go into the store's own database, named or not."""
        return self.uri in ("", MlflowTracking().tracking_uri(store))

    def prepare(self, store: Store) -> str:
        """The experiment's id; creates database and experiment once, one process at a time."""
        return self._reach(store).experiment

    def _reach(self, store: Store) -> Server:
        if self.uri and (fault := tracking_fault(self.uri)):
            raise TrackingError(f"{mlflow_client.SETTING}: {fault}", passing=False)
        if not _is_server(self.uri) and (signs := sorted(set("%?#") & set(str(store.root)))):
            raise TrackingError(
                f"the store's path {store.root} holds {' '.join(signs)}, which MLflow takes for part of an address; "
                "rename the folder, or name another: --store, RKD_STORE",
                passing=False,
            )
        mlflow_client.probe(self.uri)
        with store.lock("mlflow"), reachable():
            store.mlflow_folder.mkdir(parents=True, exist_ok=True)
            # A database knows no place for artifacts: its clients would put them into the current folder.
            artifacts = None if _is_server(self.uri) else store.mlflow_folder / "artifacts"
            return mlflow_client.open_experiment(self.tracking_uri(store), artifacts, moves=self.is_embedded(store))

    def mirror(self, store: Store, target_name: str, training: str, tags: dict[str, str]) -> str:
        """Send one training; returns its MLflow run id. What MLflow has already is not sent again.

        Raises ``TrackingError`` where MLflow is away or refuses; the next call starts that run afresh.
        """
        return self._once(store, self._training(store, target_name, training), tags)[0]

    def mirror_report(self, store: Store, tags: dict[str, str]) -> str:
        """Send the report, and the tables and figures in it; returns its MLflow run id. Raises as ``mirror`` does."""
        return self._once(store, self._report(store), tags)[0]

    def mirror_champions(self, store: Store, target_name: str, tags: dict[str, str]) -> str:
        """Register every champion that a target has had, and move the alias to who reigns; returns that version.

        Raises as ``mirror`` does. A version that is there already is not made again.
        """
        versions = [
            self._once(store, self._champion(store, champion), tags)[0] for champion in champions_of(store, target_name)
        ]
        server = self._reach(store)
        with reachable():
            mlflow_registry.point_alias(server, target_name, versions[-1])
        return versions[-1]

    def mirror_missing(self, store: Store, tags: dict[str, str]) -> Iterator[Sent | TrackingError]:
        """Send what MLflow lacks: finished trainings, the report, champions. Yields each, or what went wrong with it.

        Ends where the server does not answer.
        """
        for what, cell, attempt in self._work(store, tags):
            try:
                mlflow_id, is_new = attempt()
            except TrackingError as error:
                yield error.of(what)
                if isinstance(error, TrackingAway):
                    return
            else:
                if is_new:
                    yield Sent(what, mlflow_id, cell)

    def _work(
        self, store: Store, tags: dict[str, str]
    ) -> Iterator[tuple[str, tuple[str, str] | None, Callable[[], tuple[str, bool]]]]:
        """Everything that is finished: its name, the training if it is one, and how to send it if it is missing."""
        for result in measured_results(store)[0]:
            target_name, training = result.provenance.key
            item = self._training(store, target_name, training)
            yield f"{target_name} {training}", (target_name, training), partial(self._once, store, item, tags)
        report = store.find(Ref(REPORT.name))
        if report is not None and not store.why_stale(report):
            yield "report", None, partial(self._once, store, self._report(store), tags)
        for name in targets_with_champions(store):
            yield f"champion of {name}", None, partial(self._champions, store, name, tags)

    def _champions(self, store: Store, target_name: str, tags: dict[str, str]) -> tuple[str, bool]:
        """As ``_once``; named each time, since the alias may have been moved by hand."""
        return self.mirror_champions(store, target_name, tags), True

    def is_sent(self, store: Store, target_name: str, training: str) -> bool:
        """Whether a training as it is in the store now was sent, by the store's own record."""
        return mlflow_run_id(store, target_name, training) is not None

    def _training(self, store: Store, target_name: str, training: str) -> _Item:
        model = store.require(TRAINED_MODEL, target_name, training)
        metrics = store.require(METRICS, target_name, training)
        record = tracking_file(store, target_name, training)
        marks = tracking_contents(store, read_tracking(record), target_name, training)
        return _Item(
            record,
            marks,
            lambda server, known: _find_run(server, known, marks[0], with_model=True),
            lambda server, tags: mlflow_mirror.send_training(store, server, model, metrics, tags),
        )

    def _report(self, store: Store) -> _Item:
        report = store.require(REPORT)
        record = store.root / TRACKING_FOLDER / "report.json"
        marks = mirror_marks(read_tracking(record), report.data_version, "report")
        return _Item(
            record,
            marks,
            lambda server, known: _find_run(server, known, marks[0]),
            lambda server, tags: mlflow_mirror.send_report(store, server, report, tags),
        )

    def _champion(self, store: Store, champion: Champion) -> _Item:
        record = store.root / TRACKING_FOLDER / "champions" / champion.target / f"{champion.number:04d}.json"
        marks = mirror_marks(read_tracking(record), f"champion {champion.target} {champion.number} {champion.model}")

        def send(server: Server, tags: dict[str, str]) -> str:
            model = store.find(Ref(TRAINED_MODEL.name, champion.target, champion.training))
            same = model is not None and model.data_version == champion.model
            run_id = mlflow_run_id(store, champion.target, champion.training) if same else None
            return mlflow_registry.register(server, champion, mlflow_registry.model_of(server, run_id), tags)

        return _Item(
            record, marks, lambda server, _: mlflow_registry.version_of(server, champion.target, set(marks)), send
        )

    def _once(self, store: Store, item: _Item, given: dict[str, str]) -> tuple[str, bool]:
        """MLflow's id of an item, and whether it was sent, or put on record, only now.

        One process at a time: another that sends the same waits, and finds it sent.
        """
        attempt_file = item.record.with_suffix(".attempt")
        with store.lock(f"mlflow {item.record.relative_to(store.root)}"):
            known = read_tracking(item.record)
            current = known if known is not None and known["content"] in item.marks else None
            server = self._reach(store)
            with reachable():
                found = item.find(server, str(current["run_id"]) if current else None)
                if attempt_file.exists():
                    _delete_attempt(server, attempt_file.read_text(encoding="utf-8"), keep=found)
                if found is not None and current is not None and found == str(current["run_id"]):
                    attempt_file.unlink(missing_ok=True)
                    return found, False
                if found is None:
                    attempt = uuid.uuid4().hex
                    write_atomically(attempt_file, attempt.encode())
                    found = item.send(server, given | {CONTENT_TAG: item.marks[0], ATTEMPT_TAG: attempt})
            record = {"run_id": found, "content": item.marks[0], "uri": self.uri and shown(self.uri)}
            write_atomically(item.record, json.dumps(record).encode())
            attempt_file.unlink(missing_ok=True)
        return found, True


def _find_run(server: Server, known: str | None, mark: str, *, with_model: bool = False) -> str | None:
    """The run on record if MLflow has it still, or another whole one of the same content: the record may be lost."""
    if known is not None:
        if mlflow_client.still_there(server, known, with_model=with_model):
            return known
        mlflow_client.delete_run(server, known)  # what is left of it is not whole
    runs = server.client.search_runs([server.experiment], f"tags.`{CONTENT_TAG}` = '{mark}'")
    ids = (str(run.info.run_id) for run in runs)
    return next((i for i in ids if mlflow_client.still_there(server, i, with_model=with_model)), None)


def _delete_attempt(server: Server, attempt: str, keep: str | None) -> None:
    """What an attempt of this store has left half-made; runs of others are theirs, dead or alive."""
    for run in server.client.search_runs([server.experiment], f"tags.`{ATTEMPT_TAG}` = '{attempt}'"):
        if run.info.run_id != keep:
            mlflow_client.delete_run(server, run.info.run_id)


def _is_server(uri: str) -> bool:
    """Whether a server decides where artifacts go; a database does not."""
    return urlsplit(uri).scheme.partition("+")[0] not in ("", "sqlite", "postgresql", "mysql", "mssql")
