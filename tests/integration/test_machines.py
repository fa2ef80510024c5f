"""Several machines on one store: here several processes, each with a folder of its own for what a machine keeps.

The store is a shared folder that serves as an object store, or a bucket on one of two S3 servers; locks are in
PostgreSQL, curves and models on an MLflow server.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import obstore
import pytest
from safetensors import safe_open

from rkd_pipeline.device import Compute
from rkd_pipeline.settings import Settings
from rkd_pipeline.stages.trained_model import checkpoint_file, read_history, train_model
from rkd_pipeline.store.open_store import open_store
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import METRICS, TRAINED_MODEL
from tests.integration.conftest import TIMEOUT
from tests.integration.tracking_server import TrackingServer, wait_until
from tests.library.postgres_server import serving
from tests.library.shared_places import KINDS, SharedPlace, shared_place

pytestmark = pytest.mark.slow
TARGET, EPOCHS = "few", 6
SECRET = "a-secret"  # the password of the locks' database


@dataclass(frozen=True)
class Lab:
    """What the machines share."""

    folder: Path
    environment: dict[str, str]
    place: SharedPlace

    def machine(self, name: str) -> "Machine":
        return Machine(self, self.folder / name)


@dataclass(frozen=True)
class Machine:
    """One of them: its own folder for copies, checkpoints and Dagster's history."""

    lab: Lab
    cache: Path

    @property
    def environment(self) -> dict[str, str]:
        return self.lab.environment | {"RKD_CACHE": str(self.cache)}

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "rkd_pipeline.cli", *arguments],
            env=os.environ | self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def rkd(self, *arguments: str) -> str:
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, said
        return said

    def store(self, monkeypatch: pytest.MonkeyPatch) -> Store:
        """The store as this machine sees it."""
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        return open_store(Settings.from_environment())


@pytest.fixture(scope="module", params=KINDS)
def lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_programs: Path, few_images: Path
) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    tracking = TrackingServer(folder / "mlflow")
    with serving(postgres_programs) as database, shared_place(request.param, folder) as place:
        tracking.start()
        environment = place.environment | {
            "RKD_STORE": place.address,
            "RKD_LOCKS": database.address,
            "RKD_LOCK_SILENCE": "5",
            "MLFLOW_TRACKING_URI": tracking.uri,
            "RKD_DEVICE": "cpu",
            "RKD_PRECISION": "fp32",
            "RKD_CHECKPOINT_SECONDS": "0",
            "RKD_UPLOAD_SECONDS": "0.2",
        }
        made = Lab(folder, environment, place)
        made.machine("first").rkd("add-target", TARGET, str(few_images))
        yield made
        tracking.close()


def run(seeds: str) -> tuple[str, ...]:
    teacher = ("--teacher", "resnet18", "--weights", "random")
    recipe = ("--recipes", "stfpm-brief", "--epochs", str(EPOCHS), "--seeds", seeds)
    return ("run", "--targets", TARGET, *recipe, *teacher)


def training(seed: int) -> str:
    return f"stfpm-brief@resnet18.random~{EPOCHS}e-s{seed}"


def test_the_same_command_on_two_machines_shares_the_work(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = lab.machine("one"), lab.machine("other")
    at_once = [machine.start(*run("0,1,2,3")) for machine in (one, other)]
    said = [process.communicate(timeout=TIMEOUT)[0] for process in at_once]
    assert [process.returncode for process in at_once] == [0, 0], said
    trained = [set(re.findall(r"few (stfpm-brief\S+): done", text)) for text in said]
    assert trained[0] | trained[1] == {training(seed) for seed in range(4)}
    assert not trained[0] & trained[1]  # each exactly once
    store = one.store(monkeypatch)
    for seed in range(4):
        model = store.require(TRAINED_MODEL, TARGET, training(seed))
        assert model.record.number == 1
        assert store.require(METRICS, TARGET, training(seed)).record.number == 1
    assert store.at_work() == []
    client = mlflow.MlflowClient(lab.environment["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=100)
    named = [r.data.tags.get("rkd.training") for r in runs]
    assert sorted(n for n in named if n) == [training(seed) for seed in range(4)]
    again = lab.machine("third").rkd(*run("0,1,2,3"))
    assert "4 trainings: 4 were done before, 0 failed" in again


def test_what_a_killed_machine_began_another_ends(lab: Lab, monkeypatch: pytest.MonkeyPatch, cpu: Compute) -> None:
    killed, store = lab.machine("killed"), lab.machine("heir").store(monkeypatch)
    process = killed.start(*run("10"))
    begun = wait_for_backup(lab, 10, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    here = checkpoint_file(store, TARGET, training(10))
    store.place.restore(here)
    epoch = epoch_of(here)
    assert epoch >= begun
    assert epoch < EPOCHS, "killed too late to show anything"
    assert "interrupted; the next run resumes it" in lab.machine("heir").rkd("status")
    said = lab.machine("heir").rkd(*run("10"))
    assert "1 trainings: 0 were done before, 0 failed" in said
    resumed = store.require(TRAINED_MODEL, TARGET, training(10))
    assert resumed.facts["timed_epochs"] == EPOCHS - epoch  # of the heir; the others were not trained again
    assert len(read_history(resumed)) == EPOCHS
    assert store.place.backups("checkpoints") == []
    with store.lock("device of this test"):
        store.remove(Ref(TRAINED_MODEL.name, TARGET, training(10)))
    uninterrupted = train_model(store, TARGET, training(10), cpu)
    assert resumed.data_version == uninterrupted.data_version  # weights and history, byte for byte


def test_a_frozen_machine_commits_nothing_when_it_thaws(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, store = lab.machine("frozen"), lab.machine("heir").store(monkeypatch)
    process = frozen.start(*run("20"))
    wait_for_backup(lab, 20, process)
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        assert "1 trainings: 0 were done before, 0 failed" in lab.machine("heir").rkd(*run("20"))
        model = store.require(TRAINED_MODEL, TARGET, training(20))
    finally:
        os.killpg(process.pid, signal.SIGCONT)
    said, _ = process.communicate(timeout=TIMEOUT)
    assert "no longer holds" in said or "0 failed" in said, said
    assert store.require(TRAINED_MODEL, TARGET, training(20)).record == model.record
    assert [n for n in store.place.documents("tracking") if training(20) in n]
    assert store.at_work() == []


def test_no_secret_is_written_anywhere(lab: Lab) -> None:
    """The passwords of locks and bucket are in no file of the store, of any machine, or of Dagster and MLflow."""
    lab.machine("spy").rkd(*run("0"))  # done already, where all tests of this file run
    servers = lab.folder / "ceph"  # its log has what its own administrator typed
    places = [p for p in lab.folder.rglob("*") if p.is_file() and servers not in p.parents]
    assert len(places) > 100
    secrets = [text.encode() for text in (SECRET, *lab.place.secrets)]
    assert [p for p in places if any(secret in p.read_bytes() for secret in secrets)] == []
    objects = lab.place.names("")
    assert len(objects) > 50
    for name in objects:
        content = bytes(obstore.get(lab.place.objects, name).bytes())
        assert not any(secret in content for secret in secrets), name


def wait_for_backup(lab: Lab, seed: int, process: "subprocess.Popen[str]") -> int:
    """Wait until the second epoch of a training lies where other machines can go on from it."""
    wait_until(lambda: lab.place.epochs(TARGET, seed) >= 2, 300, process)
    return lab.place.epochs(TARGET, seed)


def epoch_of(checkpoint: Path) -> int:
    with safe_open(checkpoint, "pt") as file:
        return int(file.metadata()["progress"].count('"train_loss"'))
