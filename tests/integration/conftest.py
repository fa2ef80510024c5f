"""The command line as people run it: a process of its own, with a store of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import mlflow
import pytest
from filelock import FileLock

from rkd_pipeline.data import synthetic
from rkd_pipeline.definitions import build_defs
from rkd_pipeline.settings import Settings
from rkd_pipeline.store.result_store import Store
from tests.integration import forked

TIMEOUT = 900  # seconds; far more than a free machine needs


@dataclass(frozen=True)
class Rkd:
    """``rkd`` with one store; ``environment`` adds to the process's own."""

    store: Store
    environment: dict[str, str]

    def start(self, *arguments: str, to_file: bool = False, **environment: str) -> "subprocess.Popen[str]":
        """Run in the background, in a process group of its own; what it prints waits in a pipe, or goes to ``log``."""
        if to_file:  # a server that nobody listens to would fill its pipe and stop
            self.log.parent.mkdir(parents=True, exist_ok=True)
        out = self.log.open("a") if to_file else subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "-m", "rkd_pipeline.cli", *arguments, "--store", str(self.store.root)],
            env=os.environ | self.environment | environment,
            stdout=out,
            stderr=subprocess.STDOUT if to_file else subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def log(self) -> Path:
        """What servers print."""
        return self.store.root.parent / "servers.log"

    def __call__(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run to the end."""
        asked = [*arguments, "--store", str(self.store.root)]
        return forked.rkd(asked, os.environ | self.environment | environment, TIMEOUT)


def once_for_all(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first process to need it fills; all others wait for it, and only read it."""
    base = tmp_path_factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{made}.lock"):
        if not made.exists():
            making = tmp_path_factory.mktemp("making")
            make(making)
            making.rename(made)
    return made


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As MLflow makes it: with its default experiment alone. It takes seconds, so stores get copies of it."""

    def make(folder: Path) -> None:
        mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()

    return once_for_all(tmp_path_factory, "database_of_all", make) / "mlflow.db"


@pytest.fixture(scope="session")
def rkd_in(fresh_database: Path) -> Callable[..., Rkd]:
    def make(folder: Path, **environment: str) -> Rkd:
        database = Store(folder / "store").mlflow_folder / "mlflow.db"
        if not database.exists():
            database.parent.mkdir(parents=True)
            shutil.copy(fresh_database, database)
        return Rkd(Store(folder / "store"), {"RKD_DATA": str(folder / "data"), "RKD_DEVICE": "cpu"} | environment)

    return make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file that does without ``demo`` comes first: one process runs it while another makes ``demo``."""
    items.sort(key=lambda item: item.path.name != "test_kill.py")


@pytest.fixture(scope="session")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 good images and 6 bad ones, of the demo's weave: to train in seconds."""
    folder = tmp_path_factory.mktemp("few")
    (defect, *_) = synthetic.TARGETS["weave"].DEFECTS
    for name, count, kind in (("good", 24, None), ("bad", 6, defect)):
        for number in range(count):
            pixels, _ = synthetic.image("weave", synthetic.SEED, number, kind)
            synthetic.save(pixels, folder / name / f"{number:03d}.png")
    return folder


def look(sensor: dg.SensorDefinition, store: Store, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    """What a sensor asks for, once the partitions that it asks for first are there, as the daemon would add them."""
    defs = build_defs(Settings(store=store.root))
    context = dg.build_sensor_context(
        instance=instance, resources=defs.resources, repository_def=defs.get_repository_def()
    )
    said = sensor(context)
    if not isinstance(said, dg.SensorResult):
        return []
    for request in said.dynamic_partitions_requests or []:
        assert isinstance(request, dg.AddDynamicPartitionsRequest)
        instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
    if said.dynamic_partitions_requests:
        return look(sensor, store, instance)
    return list(said.run_requests or [])


# For one epoch: everything but its quality is as in a long training.
RECIPE, EPOCHS = "rkd-official", 1
DEMO = (
    *("run", "--targets", "demo.weave", "--recipes", RECIPE, "--epochs", str(EPOCHS)),
    *("--teacher", "resnet18", "--weights", "random"),
)
TRAINING = f"{RECIPE}@resnet18.random~{EPOCHS}e-s0"


@pytest.fixture(scope="session")
def demo(rkd_in: Callable[..., Rkd], tmp_path_factory: pytest.TempPathFactory) -> Rkd:
    """A store that holds one finished demo training; tests only read it, or add to it.

    Made once: each process that runs tests has a copy of its own.
    """

    def make(folder: Path) -> None:
        done = rkd_in(folder)(*DEMO)
        assert done.returncode == 0, done.stderr

    made = once_for_all(tmp_path_factory, "demo_of_all", make)
    return rkd_in(shutil.copytree(made, tmp_path_factory.getbasetemp() / "demo"))
