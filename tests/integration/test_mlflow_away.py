"""MLflow away, slow, or killed in the middle: training goes on, all is on disk, and the mirror is completed later."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest

from resources import mlflow_client, mlflow_mirror
from resources.tracking import MlflowTracking, Sent, TrackingAway, TrackingError
from rkd_pipeline.operations import champions
from rkd_pipeline.stages.mirror_records import mlflow_run_id
from rkd_pipeline.store.result_store import Store
from rkd_pipeline.store.stage_versions import METRICS
from tests.integration.conftest import DEMO, EPOCHS, RECIPE, Rkd
from tests.integration.tracking_server import TrackingServer, free_port, silent_server, wait_until
from tests.library.arena import TARGET, Finish

ES = "rkd-es-cal@resnet18.random~1e"
TRAINING = f"{RECIPE}@resnet18.random~{EPOCHS}e-s{{}}"


@pytest.fixture(scope="module")
def arena(
    tmp_path_factory: pytest.TempPathFactory, new_arena: Callable[[Path], tuple[Store, Finish]]
) -> tuple[Store, Finish]:
    store, finish = new_arena(tmp_path_factory.mktemp("away"))
    finish(f"{ES}-s0", 2.0)
    champions.challenge(store, TARGET)
    return store, finish


def attempt(store: Store, uri: str) -> float:
    """Seconds that a failing mirror costs."""
    began = time.monotonic()
    with pytest.raises(TrackingError):
        MlflowTracking(uri=uri).mirror(store, TARGET, f"{ES}-s0", {})
    return time.monotonic() - began


def test_a_server_that_is_away_or_silent_costs_seconds(
    arena: tuple[Store, Finish], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = arena
    monkeypatch.setattr(mlflow_client, "PROBE_SECONDS", 1.0)
    assert attempt(store, f"http://127.0.0.1:{free_port()}") < 5
    with silent_server() as uri:
        assert attempt(store, uri) < 8
        [problem] = MlflowTracking(uri=uri).mirror_missing(store, {})  # of two things it tries one: nobody is there
        assert isinstance(problem, TrackingAway)
    assert mlflow_run_id(store, TARGET, f"{ES}-s0") is None


class Sleepy(BaseHTTPRequestHandler):
    """Is healthy, and hangs whatever it is asked for."""

    def do_GET(self) -> None:
        if self.path != "/health":
            self.server.hang.wait(60)
        self.send_response(200)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def sleepy() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sleepy)
    server.daemon_threads = True
    server.hang = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.hang.set()
    server.shutdown()
    server.server_close()


def test_a_server_that_hangs_after_it_was_reached_is_given_up(
    arena: tuple[Store, Finish], sleepy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = arena
    patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
    monkeypatch.setattr(mlflow_client, "_IMPATIENT", patience)
    assert attempt(store, sleepy) < 15
    assert mlflow.active_run() is None


def test_a_mirror_that_broke_off_is_completed_without_a_trace_of_the_first(
    arena: tuple[Store, Finish], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = arena
    tracking = MlflowTracking()
    send_metrics = mlflow.log_metrics

    def breaks(*_: object, **__: object) -> None:
        raise ConnectionError("gone in the middle, with the model already logged")

    monkeypatch.setattr(mlflow, "log_metrics", breaks)
    sent = list(tracking.mirror_missing(store, {}))
    assert any("gone in the middle" in str(s) for s in sent if isinstance(s, TrackingError))
    monkeypatch.setattr(mlflow, "log_metrics", send_metrics)
    completed = list(tracking.mirror_missing(store, {}))
    assert [s for s in completed if isinstance(s, TrackingError)] == []
    client = mlflow.MlflowClient(tracking.tracking_uri(store))
    experiment = tracking.prepare(store)
    runs = client.search_runs([experiment], f"tags.`rkd.training` = '{ES}-s0' and attributes.status != 'FAILED'")
    mirrored = [r for r in runs if "rkd.recipe" in r.data.tags]
    assert [r.info.status for r in mirrored] == ["FINISHED"]
    models = client.search_logged_models([experiment], filter_string=f"source_run_id = '{mirrored[0].info.run_id}'")
    assert len(models) == 1
    again = list(tracking.mirror_missing(store, {}))
    assert [s.what for s in again if not isinstance(s, TrackingError)] == [f"champion of {TARGET}"]  # the alias


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TrackingServer]:
    server = TrackingServer(tmp_path / "mlflow server")
    server.start()
    yield server
    server.close()


@pytest.mark.slow
def test_a_server_killed_while_it_is_sent_to_gets_the_rest_when_it_is_back(
    arena: tuple[Store, Finish], server: TrackingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three trainings; the server dies when the second has its parameters, curves and images, and no model yet."""
    store, finish = arena
    trainings = [f"{ES}-s{seed}" for seed in range(3)]
    for training in trainings:
        finish(training, 2.0)
    log_model, logged = mlflow_mirror.log_model, []

    def dies_at_the_second(folder: Path, tags: dict[str, str]) -> str:
        logged.append(tags["rkd.training"])
        if len(logged) == 2:
            server.signal(signal.SIGKILL)
        return log_model(folder, tags)

    monkeypatch.setattr(mlflow_mirror, "log_model", dies_at_the_second)
    tracking = MlflowTracking(uri=server.uri)
    first, second, third = tracking.mirror_missing(store, {})
    assert not isinstance(first, TrackingError)
    assert isinstance(second, TrackingError)
    assert isinstance(third, TrackingAway)
    assert [tracking.is_sent(store, TARGET, t) for t in trainings] == [True, False, False]
    assert mlflow.active_run() is None

    server.start()
    assert [type(s) for s in tracking.mirror_missing(store, {})] == [Sent, Sent, Sent]  # two trainings, the champion
    assert all(tracking.is_sent(store, TARGET, t) for t in trainings)
    client = mlflow.MlflowClient(server.uri)
    [experiment] = [e.experiment_id for e in client.search_experiments(filter_string="name = 'rkd-pipeline'")]
    runs = client.search_runs([experiment])
    assert sorted(r.data.tags["rkd.training"] for r in runs) == trainings
    assert {r.info.status for r in runs} == {"FINISHED"}
    models = client.search_logged_models([experiment])
    assert sorted(m.source_run_id for m in models) == sorted(r.info.run_id for r in runs)
    assert client.get_model_version_by_alias(TARGET, "champion").tags["rkd.training"] == f"{ES}-s0"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
def test_a_run_goes_on_without_its_server_and_mirror_completes_it(
    rkd_in: Callable[..., Rkd], server: TrackingServer, tmp_path: Path, number: signal.Signals
) -> None:
    """Three trainings; the server goes while the second is being trained or sent."""
    rkd = rkd_in(tmp_path, MLFLOW_TRACKING_URI=server.uri)
    process = rkd.start(*DEMO, "--seeds", "0,1,2")
    wait_until(lambda: mlflow_run_id(rkd.store, "demo.weave", TRAINING.format(0)) is not None, 1200, process)
    server.signal(number)
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    assert "3 trainings: 0 were done before, 0 failed" in out
    assert "MLflow did not take" in out
    assert "`rkd mirror` sends them, or says what hinders it" in out
    for seed in range(3):
        assert rkd.store.require(METRICS, "demo.weave", TRAINING.format(seed))
    assert rkd("status").stdout.count("not yet") >= 1

    failed = rkd("mirror")
    assert failed.returncode == 1
    assert "no answer from the tracking server" in failed.stderr

    if number == signal.SIGKILL:
        server.start()
    else:
        server.signal(signal.SIGCONT)
    completed = rkd("mirror")
    assert completed.returncode == 0, completed.stderr
    assert rkd("status").stdout.count("mirrored") == 3
    client = mlflow.MlflowClient(server.uri)
    [experiment] = client.search_experiments(filter_string="name = 'rkd-pipeline'")
    runs = client.search_runs([experiment.experiment_id], "tags.`rkd.target` = 'demo.weave'")
    assert sorted(r.data.tags["rkd.seed"] for r in runs) == ["0", "1", "2"]
    assert {r.info.status for r in runs} == {"FINISHED"}
    for run in runs:
        assert client.get_metric_history(run.info.run_id, "train_loss")[-1].step == 1
        assert {f.path for f in client.list_artifacts(run.info.run_id, "figures")} >= {"figures/maps.png"}
