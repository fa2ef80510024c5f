"""MLflow as a Dagster resource: a mirror of the store.

A flat run per training, with parameters, curves, metrics, figures and the model, one per report, with its tables and
figures, and a registered model per target, whose alias is its champion. The store is the truth and is complete before
anything but curves is sent. A mirror that fails is missing, not wrong: ``rkd mirror``, or the job
``mirror_to_mlflow``, sends what is missing.

What is sent: ``mlflow_mirror``, ``mlflow_registry``; while it trains: ``live_curves``; that it is sent once:
``mlflow_once``; to whom: ``mlflow_client``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import dagster as dg

from resources import mlflow_client, mlflow_mirror, mlflow_registry
from resources.live_curves import LiveCurves
from resources.mlflow_client import Server, TrackingAway, TrackingError, answering, reachable
from resources.mlflow_once import Item, Tags, send_once
from resources.mlflow_registry import ALIAS
from rkd_pipeline.addresses import browsable, shown, tracking_fault
from rkd_pipeline.operations.champions import champions_of, targets_with_champions
from rkd_pipeline.stages.benchmark import measured_results
from rkd_pipeline.stages.mirror_records import mlflow_run_id
from rkd_pipeline.store.result_store import Ref, Result, Store
from rkd_pipeline.store.stage_versions import REPORT

__all__ = ["ALIAS", "MlflowTracking", "Sent", "TrackingAway", "TrackingError"]

# MLflow's pages are made for GenAI unless a link, or the reader's own switch, says that models are trained.
_OF_TRAINING = "workflowType=machine_learning"


@dataclass(frozen=True)
class Sent:
    """Something that MLflow has now: a training's run, the report's, or a champion's version of a registered model."""

    what: str
    mlflow_id: str
    training: tuple[str, str] | None = None


class MlflowTracking(dg.ConfigurableResource):
    """Sends trainings to MLflow.

    ``uri`` is a tracking server; empty means the embedded one: sqlite and a folder of artifacts in the store.
    ``pages`` is where the embedded one is served for people.
    """

    uri: str = ""
    pages: str = "http://127.0.0.1:5000"

    def page(self, path: str) -> str | None:
        """Address of a page such as ``models/<name>``; None where the tracking URI has no pages at a web address."""
        served = self.uri if _is_server(self.uri) else self.pages
        if not served.startswith(("http://", "https://")):
            return None
        return f"{browsable(served)}/#/{path}?{_OF_TRAINING}"

    def experiment_page(self, store: Store) -> str | None:
        """Address of the experiment's runs, as ``page``. Raises ``TrackingError`` where MLflow is away."""
        return self.page(f"experiments/{self.prepare(store)}/runs")

    def run_page(self, store: Store, run_id: str) -> str | None:
        """Address of a run. Raises as ``experiment_page`` does."""
        return self.page(f"experiments/{self.prepare(store)}/runs/{run_id}")

    def address(self, store: Store) -> str:
        """What to tell people: the experiment's page; where it has none, or MLflow is away, the tracking URI."""
        try:
            return self.experiment_page(store) or shown(self.tracking_uri(store))
        except TrackingError as error:
            return f"{shown(self.tracking_uri(store))} ({error})"

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
        with store.lock("mlflow"), answering():
            store.mlflow_folder.mkdir(parents=True, exist_ok=True)
            # A database knows no place for artifacts: its clients would put them into the current folder.
            artifacts = None if _is_server(self.uri) else store.mlflow_folder / "artifacts"
            return mlflow_client.open_experiment(self.tracking_uri(store), artifacts, moves=self.is_embedded(store))

    def live_curves(self, store: Store, target_name: str, training: str, tags: Tags) -> LiveCurves:
        """A context around a training: what it is handed of each epoch, MLflow shows while the training runs."""
        return LiveCurves(store, target_name, training, self._reach, tags)

    def mirror(self, store: Store, target_name: str, training: str, tags: Tags) -> str:
        """Send one training; returns its MLflow run id. What MLflow has already is not sent again.

        Raises ``TrackingError`` where MLflow is away or refuses; the next call goes on, or starts that run afresh.
        """
        return self._once(store, mlflow_mirror.training_item(store, target_name, training), tags)[0]

    def mirror_report(self, store: Store, tags: Tags) -> str:
        """Send the report, and the tables and figures in it; returns its MLflow run id. Raises as ``mirror`` does."""
        return self._once(store, mlflow_mirror.report_item(store), tags)[0]

    def mirror_champions(self, store: Store, target_name: str, tags: Tags) -> str:
        """Register every champion that a target has had, and move the alias to the present one; returns that version.

        Raises as ``mirror`` does. A version that is there already is not made again.
        """
        champions = champions_of(store, target_name)
        versions = [
            self._once(store, mlflow_registry.champion_item(store, champion), tags)[0] for champion in champions
        ]
        server = self._reach(store)
        with reachable():
            mlflow_registry.point_alias(server, target_name, versions[-1])
        return versions[-1]

    def attach_export(self, store: Store, target_name: str, training: str, exported: Result) -> str:
        """Copy an exported model into the run of its training, beside the model there; says where it is.

        Raises as ``mirror`` does.
        """
        run_id = mlflow_run_id(store, target_name, training)
        if run_id is None:
            return "nothing: the training was not sent yet; `rkd mirror` sends it, then export again"
        server, place = self._reach(store), f"exported/{exported.facts['format']}-{exported.facts['precision']}"
        with reachable():
            server.client.log_artifacts(run_id, str(exported.folder), place)
        return f"{place} in run {run_id}"

    def mirror_missing(self, store: Store, tags: Tags) -> Iterator[Sent | TrackingError]:
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
        self, store: Store, tags: Tags
    ) -> Iterator[tuple[str, tuple[str, str] | None, Callable[[], tuple[str, bool]]]]:
        """Everything that is finished: its name, the training if it is one, and how to send it if it is missing."""
        for result in measured_results(store)[0]:
            target_name, training = result.provenance.key
            item = mlflow_mirror.training_item(store, target_name, training)
            yield f"{target_name} {training}", (target_name, training), partial(self._once, store, item, tags)
        report = store.find(Ref(REPORT.name))
        if report is not None and not store.why_stale(report):
            yield "report", None, partial(self._once, store, mlflow_mirror.report_item(store), tags)
        for name in targets_with_champions(store):
            yield f"champion of {name}", None, partial(self._champions, store, name, tags)

    def _champions(self, store: Store, target_name: str, tags: Tags) -> tuple[str, bool]:
        """As ``_once``; named each time, since the alias may have been moved by hand."""
        return self.mirror_champions(store, target_name, tags), True

    def _once(self, store: Store, item: Item, tags: Tags) -> tuple[str, bool]:
        return send_once(store, item, self._reach, tags, self.uri and shown(self.uri))

    def is_sent(self, store: Store, target_name: str, training: str) -> bool:
        """Whether a training as it is in the store now was sent, by the store's own record."""
        return mlflow_run_id(store, target_name, training) is not None


def _is_server(uri: str) -> bool:
    """Whether a server decides where artifacts go; a database does not."""
    return urlsplit(uri).scheme.partition("+")[0] not in ("", "sqlite", "postgresql", "mysql", "mssql")
