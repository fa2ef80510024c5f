"""Curves that arrive while a training runs: in one MLflow run whatever happens, and never at the training's cost."""

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import mlflow
import pytest

from resources import live_curves, mlflow_client, mlflow_mirror
from resources.tracking import MlflowTracking
from rkd_pipeline.stages.mirror_records import tracking_file
from rkd_pipeline.store.result_store import Store
from rkd_pipeline.training.loop import Epoch
from tests.integration.tracking_server import free_port, silent_server, wait_until
from tests.library.arena import TARGET, Finish

SEEDS = count()  # each test watches a training of its own
OF_THE_ARENA = Epoch(1, 1.0, 1.0)  # the only epoch of a training that the arena makes up


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_curves, "PAUSE", 0.01)


class Watched:
    """A training, and what the store's MLflow has of it."""

    def __init__(self, store: Store, finish: Finish) -> None:
        self.store, self._finish, self.tracking = store, finish, MlflowTracking()
        self.training = f"rkd-es-cal@resnet18.random~1e-s{next(SEEDS)}"

    def finish(self) -> None:
        """The training is done, and its results stand in the store."""
        self._finish(self.training, 2.0)

    def curves(self, tracking: MlflowTracking | None = None) -> live_curves.LiveCurves:
        return (tracking or self.tracking).live_curves(self.store, TARGET, self.training, {"dagster.run_id": "a run"})

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.tracking.tracking_uri(self.store))

    def runs(self) -> list[Any]:
        """Of the training; those that are deleted are gone."""
        return list(self.client.search_runs(["1"], f"tags.`rkd.training` = '{self.training}'"))

    def points(self, name: str = "train_loss") -> list[tuple[int, float, int]]:
        """Epoch, loss and time of each point in the one run."""
        [run] = self.runs()
        return [(m.step, m.value, m.timestamp) for m in self.client.get_metric_history(run.info.run_id, name)]

    def wait_for(self, *epochs: int) -> None:
        wait_until(lambda: bool(self.runs()) and [step for step, *_ in self.points()] == list(epochs), 120)

    def mirror(self) -> str:
        return self.tracking.mirror(self.store, TARGET, self.training, {})


@pytest.fixture(scope="module")
def arena(
    tmp_path_factory: pytest.TempPathFactory, new_arena: Callable[[Path], tuple[Store, Finish]]
) -> tuple[Store, Finish]:
    store, finish = new_arena(tmp_path_factory.mktemp("live"))
    MlflowTracking().prepare(store)
    return store, finish


@pytest.fixture
def watched(arena: tuple[Store, Finish]) -> Watched:
    return Watched(*arena)


def test_a_curve_grows_while_its_training_runs_and_the_mirror_completes_the_same_run(watched: Watched) -> None:
    before = int(time.time() * 1000)
    with watched.curves() as curves:
        time.sleep(0.05)  # the first epoch
        curves.log(OF_THE_ARENA)
        watched.wait_for(1)
        [run] = watched.runs()
        assert run.info.status == "RUNNING"
        assert run.data.params["recipe.loss"]
        [(_, value, ended)] = watched.points()
        assert value == 1.0
        assert before <= run.info.start_time < ended <= int(time.time() * 1000)
    watched.finish()
    assert watched.mirror() == run.info.run_id
    [done] = watched.runs()
    assert done.info.status == "FINISHED"
    assert watched.points() == watched.points("validation_loss") == [(1, 1.0, ended)]
    assert done.info.start_time == run.info.start_time


def test_a_training_that_was_killed_goes_on_in_its_run(watched: Watched) -> None:
    killed = watched.curves()  # a process that is killed never leaves the block
    for epoch in (1, 2):
        killed.log(Epoch(epoch, 1 / epoch, None))
    watched.wait_for(1, 2)
    first = watched.points()
    [begun] = watched.runs()
    with watched.curves() as resumed:
        for epoch in (2, 3):  # the checkpoint was of epoch 1
            resumed.log(Epoch(epoch, 1 / epoch, None))
        watched.wait_for(1, 2, 3)
    [run] = watched.runs()
    assert run.info.run_id == begun.info.run_id
    assert watched.points()[:2] == first


def test_a_training_that_failed_shows_it_until_it_goes_on(watched: Watched) -> None:
    def train() -> None:
        with watched.curves() as curves:
            curves.log(OF_THE_ARENA)
            watched.wait_for(1)
            raise ValueError("the training's own")

    with pytest.raises(ValueError, match="the training's own"):
        train()
    wait_until(lambda: watched.runs()[0].info.status == "FAILED", 60)
    [failed] = watched.runs()
    with watched.curves() as resumed:
        resumed.log(OF_THE_ARENA)
        wait_until(lambda: watched.runs()[0].info.status == "RUNNING", 60)
    watched.finish()
    assert watched.mirror() == failed.info.run_id
    assert watched.runs()[0].info.status == "FINISHED"


def test_a_run_that_is_not_the_stored_training_s_is_replaced(watched: Watched) -> None:
    with watched.curves() as curves:
        curves.log(Epoch(1, 0.5, 0.5))  # the store's training says 1.0: it was another one
        watched.wait_for(1)
    [other] = watched.runs()
    watched.finish()
    assert watched.mirror() != other.info.run_id
    assert [value for _, value, _ in watched.points()] == [1.0]


@pytest.mark.parametrize("kind", ["nobody there", "silent"])
def test_an_outage_costs_the_training_nothing_and_its_curve_keeps_its_times(
    watched: Watched, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_client, "PROBE_SECONDS", 30.0)
    with silent_server() as silent:
        away = MlflowTracking(uri=silent if kind == "silent" else f"http://127.0.0.1:{free_port()}")
        began, before = time.monotonic(), int(time.time() * 1000)
        with watched.curves(away) as curves:
            curves.log(OF_THE_ARENA)
        assert time.monotonic() - began < 5  # of the 30 s that the server is waited for
        after = int(time.time() * 1000)
    time.sleep(0.01)
    watched.finish()
    watched.mirror()
    [(step, value, ended)] = watched.points()
    assert (step, value) == (1, 1.0)
    assert before <= ended <= after
    record = Path(str(tracking_file(watched.store, TARGET, watched.training)))
    assert [file for file in record.parent.iterdir() if file.stem == record.stem] == [record]


def test_an_error_of_our_own_spares_the_training_and_fails_the_mirror(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*_: object) -> None:
        raise KeyError("a mistake in the code that sends")

    monkeypatch.setattr(mlflow_mirror, "log_losses", breaks)
    with caplog.at_level(logging.ERROR), watched.curves() as curves:
        curves.log(OF_THE_ARENA)
        wait_until(lambda: "a mistake in the code that sends" in caplog.text, 60)
        curves.log(Epoch(2, 0.5, 0.5))
    watched.finish()
    with pytest.raises(KeyError, match="a mistake in the code that sends"):
        watched.mirror()


def test_a_training_that_is_there_already_begins_no_run(watched: Watched) -> None:
    with watched.curves():
        pass
    assert watched.runs() == []
    record = Path(str(tracking_file(watched.store, TARGET, watched.training)))
    assert not [file for file in record.parent.glob("*") if file.stem == record.stem]


BEGIN = """
import sys
from pathlib import Path
from types import SimpleNamespace
from resources import live_curves, mlflow_mirror
from rkd_pipeline.store.result_store import Store
from rkd_pipeline.training.loop import Epoch

class Waiting:
    def __init__(self, **_):
        pass

    def start(self):
        print(hasattr(sys.modules.get("sqlalchemy.orm"), "Session"))

live_curves.Thread = Waiting
mlflow_mirror.begun_training = lambda *_: SimpleNamespace(name="x", mark="y")
assert "sqlalchemy.orm" not in sys.modules
live_curves.LiveCurves(Store(Path(sys.argv[1])), "t", "rkd-s0", None, {}).log(Epoch(1, 1.0, None))
"""


def test_no_library_is_half_imported_while_dagster_uses_it(tmp_path: Path) -> None:
    """The thread imports MLflow, and so SQLAlchemy's mappers; Dagster's queries fail in the middle of that."""
    done = subprocess.run([sys.executable, "-c", BEGIN, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
