"""The mirror asks MLflow what is there: deleted, moved, sent by two at once; and errors of our own are no absence."""

import importlib.metadata
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import packages_distributions
from pathlib import Path
from threading import Thread

import mlflow
import pandas as pd
import pytest
import urllib3

from resources import mlflow_mirror
from resources.carried_code import carried_files, requirements
from resources.mlflow_client import MODEL_TAG, reachable
from resources.tracking import MlflowTracking, Sent, TrackingAway, TrackingError
from rkd_pipeline.detectors import anomalib_model
from rkd_pipeline.errors import StoreError
from rkd_pipeline.operations import champions
from rkd_pipeline.stages.mirror_records import mlflow_run_id, tracking_file
from rkd_pipeline.store.files import text_sha256
from rkd_pipeline.store.result_store import Store
from rkd_pipeline.store.stage_versions import METRICS, TRAINED_MODEL
from tests.integration.tracking_server import free_port
from tests.library.arena import TARGET, Finish, enter

TRAINING = "rkd-es-cal@resnet18.random~1e-s0"
CHAMPION = f"champion of {TARGET}"


@dataclass(frozen=True)
class Mirrored:
    """A store with a champion, sent to the MLflow that lies in it, in a folder with a blank in its name."""

    store: Store

    @property
    def tracking(self) -> MlflowTracking:
        return MlflowTracking()

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.tracking.tracking_uri(self.store))

    def runs(self) -> list[str]:
        """Ids of the training's runs that are not deleted."""
        found = self.client.search_runs(["1"], f"tags.`rkd.training` = '{TRAINING}'")
        return [run.info.run_id for run in found]

    def send(self) -> list[str]:
        """What was missing, by name; nothing may fail."""
        sent = list(self.tracking.mirror_missing(self.store, {}))
        assert [s for s in sent if isinstance(s, TrackingError)] == []
        return [s.what for s in sent if isinstance(s, Sent)]

    def assert_serves(self) -> None:
        """The champion's alias leads to a model that MLflow can load and that scores."""
        version = self.client.get_model_version_by_alias(TARGET, "champion")
        mlflow.set_tracking_uri(self.tracking.tracking_uri(self.store))
        example = champions.require_champion(self.store, TARGET).folder / "example.jpg"
        model = mlflow.pyfunc.load_model(f"models:/{TARGET}/{version.version}")
        scored = model.predict(pd.DataFrame({"picture": [str(example)]}), params={"maps": False})
        assert scored["score"].notna().all()


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory, new_arena: Callable[[Path], tuple[Store, Finish]]) -> Mirrored:
    folder = tmp_path_factory.mktemp("mirror") / "with a blank"
    folder.mkdir()
    store, finish = new_arena(folder)
    finish(TRAINING, 2.0)
    champions.challenge(store, TARGET)
    made = Mirrored(store)
    assert made.send() == [f"{TARGET} {TRAINING}", CHAMPION]
    return made


def test_weights_are_links_where_the_path_has_a_blank(mirrored: Mirrored) -> None:
    weights = list((mirrored.store.mlflow_folder / "artifacts").rglob("*.safetensors"))
    assert len(weights) == 2
    assert all(file.stat().st_nlink > 1 for file in weights)


def test_a_deleted_run_comes_back(mirrored: Mirrored) -> None:
    [run] = mirrored.runs()
    mirrored.client.delete_run(run)
    mirrored.send()
    assert mirrored.runs() == [run]


@pytest.mark.parametrize("gone", ["run", "model"])
def test_what_is_gone_for_good_is_sent_again_once(mirrored: Mirrored, gone: str) -> None:
    [run] = mirrored.runs()
    if gone == "run":  # as `mlflow gc` does
        mirrored.client.delete_run(run)
        mirrored.client._tracking_client.store._hard_delete_run(run)
    else:
        mirrored.client.delete_logged_model(mirrored.client.get_run(run).data.tags[MODEL_TAG])
    assert mirrored.send() == [f"{TARGET} {TRAINING}", CHAMPION]
    [again] = mirrored.runs()
    assert again != run
    assert mlflow_run_id(mirrored.store, TARGET, TRAINING) == again
    assert mirrored.send() == [CHAMPION]
    mirrored.assert_serves()


def test_a_deleted_experiment_comes_back_with_its_runs(mirrored: Mirrored) -> None:
    runs = mirrored.runs()
    mirrored.client.delete_experiment("1")
    assert mirrored.send() == [CHAMPION]
    assert mirrored.runs() == runs


def test_a_deleted_registered_model_comes_back_with_version_and_alias(mirrored: Mirrored) -> None:
    mirrored.client.delete_registered_model(TARGET)
    mirrored.send()
    mirrored.assert_serves()


def test_a_lost_record_sends_nothing_twice(mirrored: Mirrored) -> None:
    runs = mirrored.runs()
    tracking_file(mirrored.store, TARGET, TRAINING).delete()
    assert mlflow_run_id(mirrored.store, TARGET, TRAINING) is None
    [version] = mirrored.client.search_model_versions(f"name = '{TARGET}'")
    mirrored.send()
    assert mirrored.runs() == runs
    assert mlflow_run_id(mirrored.store, TARGET, TRAINING) == runs[0]
    [same] = mirrored.client.search_model_versions(f"name = '{TARGET}'")
    assert same.version == version.version


def test_a_damaged_record_is_named_with_the_fix(mirrored: Mirrored) -> None:
    record = tracking_file(mirrored.store, TARGET, TRAINING)
    before = record.read() or b""
    record.write(before[:20])
    with pytest.raises(StoreError, match=r"s0\.json is damaged .*delete it"):
        mirrored.tracking.mirror(mirrored.store, TARGET, TRAINING, {})
    record.write(before)


def test_a_training_made_anew_is_not_called_mirrored(
    new_arena: Callable[[Path], tuple[Store, Finish]], tmp_path: Path
) -> None:
    store, finish = new_arena(tmp_path)
    finish(TRAINING, 2.0)
    record = tracking_file(store, TARGET, TRAINING)
    versions = [store.require(stage, TARGET, TRAINING).data_version for stage in (TRAINED_MODEL, METRICS)]
    content = text_sha256(f"http://h {' '.join(versions)}")[:16]
    record.write_json({"run_id": "r", "uri": "http://h", "content": content})
    assert mlflow_run_id(store, TARGET, TRAINING) == "r"  # a record of before keeps its meaning
    finish(TRAINING, 1.0)
    assert mlflow_run_id(store, TARGET, TRAINING) is None


@pytest.mark.parametrize("records", ["new", "old"])
def test_a_moved_store_sends_nothing_twice_and_nothing_to_the_old_path(
    mirrored: Mirrored, tmp_path: Path, records: str
) -> None:
    before, moved = mirrored.store.root, Mirrored(Store(tmp_path / "moved here" / "store"))
    moved.store.root.parent.mkdir()
    shutil.copytree(before, moved.store.root)
    aside = before.rename(before.with_name("aside"))  # nothing is at the old path: whoever writes there makes it
    try:
        runs = moved.runs()
        if records == "old":
            as_before(moved.store, before)
        assert moved.send() == [CHAMPION]
        assert moved.runs() == runs
        enter(moved.store)(TRAINING.replace("s0", "s1"), 2.0)
        assert moved.send() == [f"{TARGET} {TRAINING.replace('s0', 's1')}", CHAMPION]
        moved.assert_serves()
        assert moved.client.list_artifacts(runs[0], "figures")
        assert not before.exists()
        with closing(sqlite3.connect(moved.store.mlflow_folder / "mlflow.db")) as database:
            for table, column in (
                ("experiments", "artifact_location"),
                ("runs", "artifact_uri"),
                ("logged_models", "artifact_location"),
                ("model_versions", "storage_location"),
            ):
                places = [place for (place,) in database.execute(f"SELECT {column} FROM {table}")]
                assert not [place for place in places if place.startswith(before.parent.as_uri())]
    finally:
        aside.rename(before)


def as_before(store: Store, root: Path) -> None:
    """Records as they were written when they held the address of the database."""
    uri = f"sqlite:///{root / 'mlflow' / 'mlflow.db'}"
    versions = [store.require(stage, TARGET, TRAINING).data_version for stage in (TRAINED_MODEL, METRICS)]
    champion = champions.require_champion(store, TARGET)
    contents = {
        tracking_file(store, TARGET, TRAINING): " ".join(versions),
        store.document("tracking", "champions", TARGET, "0001.json"): f"champion {TARGET} 1 {champion.model}",
    }
    marks = {}
    for record, content in contents.items():
        known = record.read_json("")
        old = text_sha256(f"{uri} {content}")[:16]
        marks[known["content"]] = old
        record.write_json({"run_id": known["run_id"], "content": old, "uri": uri})
    with closing(sqlite3.connect(store.mlflow_folder / "mlflow.db")) as database, database:
        for new, old in marks.items():
            for table in ("tags", "model_version_tags"):
                database.execute(f"UPDATE {table} SET value = ? WHERE value = ?", (old, new))


@pytest.mark.parametrize("name", ["what?", "100%25", "number #1"])
def test_a_path_that_mlflow_would_take_for_another_is_refused_before_anything_is_written(
    tmp_path: Path, name: str
) -> None:
    store = Store(tmp_path / name / "store")
    with pytest.raises(TrackingError, match=r"rename the folder, or name another: --store, RKD_STORE") as refused:
        MlflowTracking().prepare(store)
    assert not refused.value.passing
    assert list(tmp_path.iterdir()) == []


SENDER = """
import sys, time
from pathlib import Path
from resources.tracking import MlflowTracking
from rkd_pipeline.store.result_store import Store
import mlflow
root, ready, other, training = sys.argv[1:]
Path(ready).touch()
while not Path(other).exists():
    time.sleep(0.01)
print(MlflowTracking().mirror(Store(Path(root)), "arena", training, {}))
"""


def test_two_processes_that_send_the_same_at_once_make_one_run(mirrored: Mirrored, tmp_path: Path) -> None:
    training = TRAINING.replace("s0", "s9")
    enter(mirrored.store)(training, 2.0)
    flags = [str(tmp_path / "one"), str(tmp_path / "two")]
    senders = [
        subprocess.Popen(
            [sys.executable, "-c", SENDER, str(mirrored.store.root), *order, training],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for order in (flags, flags[::-1])
    ]  # fmt: skip
    answers = [sender.communicate(timeout=900) for sender in senders]
    assert [sender.returncode for sender in senders] == [0, 0], answers
    one, other = (out.strip().splitlines()[-1] for out, _ in answers)
    assert one == other
    same = f"tags.`rkd.training` = '{training}'"
    runs = mirrored.client.search_runs(["1"], same, run_view_type=mlflow.entities.ViewType.ALL)
    assert [(run.info.run_id, run.info.status) for run in runs] == [(one, "FINISHED")]
    assert len(mirrored.client.search_logged_models(["1"], filter_string=f"source_run_id = '{one}'")) == 1


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), StoreError("x"), FileNotFoundError("x")])
def test_errors_of_our_own_are_no_absence_of_mlflow(
    mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def breaks(*_: object) -> str:
        raise error

    record = tracking_file(mirrored.store, TARGET, TRAINING)
    known = record.read_json("")
    record.delete()
    monkeypatch.setattr(mlflow_mirror, "find_run", lambda *_, **__: None)
    monkeypatch.setattr(mlflow_mirror, "send_training", breaks)
    with pytest.raises(type(error)) as raised:
        mirrored.tracking.mirror(mirrored.store, TARGET, TRAINING, {})
    assert not isinstance(raised.value, TrackingError)
    with pytest.raises(type(error)):
        list(mirrored.tracking.mirror_missing(mirrored.store, {}))
    record.write_json(known)


def test_what_mlflow_wraps_of_our_own_is_no_absence_of_mlflow() -> None:
    """MLflow runs our model's code; the network's errors, which it wraps too, are another matter."""
    from mlflow.exceptions import MlflowException

    def wrapped(cause: Callable[[], object]) -> None:
        try:
            cause()
        except Exception as error:
            raise MlflowException("Failed to run the model") from error

    with pytest.raises(MlflowException), reachable():
        wrapped(lambda: carried_files(Path("there is no such file.py"), []))
    with pytest.raises(TrackingError), reachable():
        wrapped(lambda: urllib3.connection_from_url(f"http://127.0.0.1:{free_port()}").urlopen("GET", "/", retries=0))


def test_the_parts_that_a_training_used_are_datasets_of_their_own(mirrored: Mirrored) -> None:
    """The arena has 100 normal images, of which a fold of 20 tests, and 40 anomalous ones; two parts of 20 are held
    out of the rest."""
    [run] = mirrored.runs()
    inputs = mirrored.client.get_run(run).inputs.dataset_inputs
    found = {i.tags[0].value: (i.dataset.name, json.loads(i.dataset.profile)["num_rows"]) for i in inputs}
    assert found == {
        "training": (f"{TARGET} training", 40),
        "testing": (f"{TARGET} testing", 60),
        "validation": (f"{TARGET} validation", 20),
        "calibration": (f"{TARGET} calibration", 20),
    }
    assert len({i.dataset.digest for i in inputs}) == 4


def test_another_repeat_is_another_dataset(mirrored: Mirrored) -> None:
    other = TRAINING.replace("s0", "s0r1")
    enter(mirrored.store)(other, 2.0)
    run = mirrored.client.get_run(mirrored.tracking.mirror(mirrored.store, TARGET, other, {}))
    [first] = mirrored.runs()
    digests = [
        {i.dataset.name: i.dataset.digest for i in r.inputs.dataset_inputs}
        for r in (run, mirrored.client.get_run(first))
    ]
    assert digests[0][f"{TARGET} testing"] != digests[1][f"{TARGET} testing"]


@pytest.fixture
def fresh(fresh_database: Path, tmp_path: Path) -> Mirrored:
    store = Store(tmp_path / "store")
    store.mlflow_folder.mkdir(parents=True)
    shutil.copy(fresh_database, store.mlflow_folder / "mlflow.db")
    return Mirrored(store)


def test_an_experiment_of_before_becomes_one_of_training_and_the_empty_default_is_out_of_the_way(
    fresh: Mirrored,
) -> None:
    place = (fresh.store.mlflow_folder / "artifacts").as_uri()
    fresh.client.create_experiment("rkd-pipeline", place, {"mlflow.note.content": "somebody's own words"})
    assert sorted(e.name for e in fresh.client.search_experiments()) == ["Default", "rkd-pipeline"]

    fresh.tracking.prepare(fresh.store)
    [ours] = fresh.client.search_experiments()  # those that are not deleted
    assert ours.name == "rkd-pipeline"
    assert ours.tags["mlflow.experimentKind"] == "custom_model_development"
    assert ours.tags["mlflow.note.content"] == "somebody's own words"

    fresh.client.restore_experiment("0")  # by hand: not done again
    fresh.tracking.prepare(fresh.store)
    assert len(fresh.client.search_experiments()) == 2


def test_a_default_experiment_that_is_used_stays(fresh: Mirrored) -> None:
    fresh.client.create_run("0")
    fresh.tracking.prepare(fresh.store)
    assert sorted(e.name for e in fresh.client.search_experiments()) == ["Default", "rkd-pipeline"]


def test_links_lead_to_pages_of_training(mirrored: Mirrored) -> None:
    pages = MlflowTracking(pages="http://127.0.0.1:5001")
    runs = "http://127.0.0.1:5001/#/experiments/1/runs"
    assert pages.address(mirrored.store) == f"{runs}?workflowType=machine_learning"
    assert pages.run_page(mirrored.store, "r") == f"{runs}/r?workflowType=machine_learning"
    away = MlflowTracking(uri=f"http://u:s3cret@127.0.0.1:{free_port()}").address(mirrored.store)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+ \(no answer .*\)", away)


class Refuses(BaseHTTPRequestHandler):
    """A server behind a door: whoever asks is turned away, in HTML."""

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(b"<html>no</html>")

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("status", "passing", "said"),
    [(401, False, "MLFLOW_TRACKING_USERNAME"), (403, False, "may write"), (404, False, "MLFLOW_TRACKING_URI"),
     (503, True, "503")],
)  # fmt: skip
def test_trying_again_is_advised_only_where_it_can_help(
    mirrored: Mirrored, status: int, passing: bool, said: str
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    server.status = status
    Thread(target=server.serve_forever, daemon=True).start()
    uri = f"http://robot:s3cret@127.0.0.1:{server.server_port}"
    with pytest.raises(TrackingError, match=said) as refused:
        MlflowTracking(uri=uri).mirror(mirrored.store, TARGET, TRAINING, {})
    server.shutdown()
    server.server_close()
    assert refused.value.passing is passing
    assert ("later" in refused.value.advice) is passing
    assert "s3cret" not in str(refused.value)


def test_nobody_there_may_be_there_later(mirrored: Mirrored) -> None:
    with pytest.raises(TrackingAway, match="MLFLOW_TRACKING_URI") as away:
        MlflowTracking(uri=f"http://127.0.0.1:{free_port()}").mirror(mirrored.store, TARGET, TRAINING, {})
    assert "later" in away.value.advice


def test_a_locked_database_is_waited_for_and_an_outdated_one_is_not() -> None:
    from sqlalchemy.exc import ArgumentError, OperationalError

    for error, passing in (
        (OperationalError("INSERT", {}, Exception("database is locked")), True),
        (ArgumentError("no such dialect"), False),
        (mlflow.MlflowException("Detected out-of-date database schema (found version 1)"), False),
    ):
        with pytest.raises(TrackingError) as raised, reachable():
            raise error
        assert raised.value.passing is passing


def test_a_model_is_not_mirrored_where_its_packages_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = {name: made for name, made in packages_distributions().items() if name not in ("anomalib", "timm")}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: packages)
    with pytest.raises(TrackingError, match=r"no installed package provides anomalib, timm.*mirror it from an env"):
        requirements([Path(anomalib_model.__file__)])
