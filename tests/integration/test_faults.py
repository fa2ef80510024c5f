"""What breaks at night, broken on purpose, with the real daemon and webserver: docs/reliability.md has the table.

After each fault: a restart (or the daemon alone) finishes the work; the result is byte for byte that of a training
which nothing disturbed; no partial file counts as whole; the next launch is not held up by a slot of a dead run.
"""

import json
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from resources.instance import open_instance
from resources.liveness import PID_TAG
from rkd_pipeline.operations.work_orders import FOLDER, open_orders
from rkd_pipeline.stages.trained_model import checkpoint_file, read_history
from rkd_pipeline.store.result_store import Store
from rkd_pipeline.store.stage_versions import METRICS, TRAINED_MODEL
from tests.integration.conftest import DEMO, Rkd
from tests.integration.servers import ENDED, Pages, kill_everything, start, stop, wait_until
from tests.integration.test_hooks import SECRET, Server
from tests.integration.test_kill import wait_for_epoch
from tests.library.small_disks import disk_of_its_own, fill

pytestmark = pytest.mark.slow
PATIENCE = 600  # seconds; minutes on a free machine

EPOCHS = 4
TRAINING = f"rkd-official-brief@resnet18.random~{EPOCHS}e-s5"
PARTITION = f"demo.weave|{TRAINING}"
TRAIN = "train_and_evaluate"
COMMAND = (*DEMO, "--recipes", "rkd-official-brief", "--epochs", str(EPOCHS), "--seeds", "5")


@pytest.fixture(scope="module")
def undisturbed(demo: Rkd) -> str:
    """Data version of the training when nothing happens to it: weights and history, byte for byte."""
    done = demo(*COMMAND)
    assert done.returncode == 0, done.stderr
    return demo.store.require(TRAINED_MODEL, "demo.weave", TRAINING).data_version


@pytest.fixture(scope="module")
def hook() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@dataclass
class World:
    """A store in which the data is prepared and the training is not begun, and ``rkd ui`` over it when asked for."""

    rkd: Rkd
    undisturbed: str
    running: Pages | None = None

    @classmethod
    def copied(cls, demo: Rkd, folder: Path, undisturbed: str, **environment: str) -> "World":
        """A world of its own, with what the demo's store holds."""
        shutil.copytree(demo.store.root, folder, dirs_exist_ok=True)
        given = demo.environment | {"RKD_CHECKPOINT_SECONDS": "0"} | environment
        world = cls(Rkd(Store(folder), given), undisturbed)
        world.forget()
        return world

    @property
    def store(self) -> Store:
        return self.rkd.store

    @property
    def pages(self) -> Pages:
        """The servers, started where they are not running."""
        if self.running is None or self.running.process.poll() is not None:
            self.running = start(self.rkd)
        return self.running

    @property
    def checkpoint(self) -> Path:
        return checkpoint_file(self.store, "demo.weave", TRAINING)

    def forget(self) -> None:
        """As if the training had never been: the store decides, whatever the event log says."""
        for stage in ("trained_model", "anomaly_scores", "metrics"):
            shutil.rmtree(self.store.root / stage / "demo.weave" / TRAINING, ignore_errors=True)
        (self.store.root / "tracking" / "demo.weave" / f"{TRAINING}.json").unlink(missing_ok=True)

    def begin(self) -> str:
        """Launch the training and wait until it is past its first epoch; returns the run's id."""
        self.pages.add_training(TRAINING)
        run = self.pages.launch(TRAIN, PARTITION)
        wait_for_epoch(self.checkpoint, self.pages.process, at_least=1)
        return run

    def worker(self, run: str) -> psutil.Process:
        """The process that trains."""
        [tags] = [r["tags"] for r in self.pages.runs() if r["runId"] == run]
        return psutil.Process(int(tags[PID_TAG]))

    def kill_everything(self) -> None:
        assert self.running is not None
        kill_everything(self.running)

    def must_be_whole(self) -> None:
        """What is true after every fault, once ``rkd ui`` is there again; nothing else is done for it."""
        assert self.pages.process.poll() is None
        made = self.store.root / METRICS.name / "demo.weave" / TRAINING / "provenance.json"
        wait_until(made.exists, "the metrics of the training, whoever makes them", PATIENCE)
        wait_until(lambda: not self._unfinished(), "every run to end", PATIENCE)
        model = self.store.require(TRAINED_MODEL, "demo.weave", TRAINING)
        assert model.data_version == self.undisturbed
        assert len(read_history(model)) == EPOCHS
        assert [p for p in self.checkpoint.parent.iterdir() if p.suffix != ".set-aside"] == []
        assert [p for p in self.store.root.glob("*/demo.weave/.*.tmp") if p.is_dir()] == []
        again = self.pages.launch(TRAIN, PARTITION)
        assert self.pages.wait_for_run(again, PATIENCE) == "SUCCESS"  # nobody holds its slot or its locks
        instance, _ = open_instance(self.store)
        assert instance.event_log_storage.get_concurrency_info("device").claimed_slots == []
        assert self.store.require(TRAINED_MODEL, "demo.weave", TRAINING).provenance == model.provenance

    def _unfinished(self) -> list[str]:
        return [r["runId"] for r in self.pages.runs() if r["status"] not in ENDED]


@pytest.fixture(scope="module")
def night(demo: Rkd, undisturbed: str, hook: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One world for all faults, one after the other, as in a bad night."""
    folder = tmp_path_factory.mktemp("night") / "store"
    world = World.copied(demo, folder, undisturbed, RKD_HOOK_URL=hook.address)
    yield world
    if world.running is not None and world.running.process.poll() is None:
        stop(world.running)


@pytest.fixture
def world(night: World) -> World:
    night.forget()
    return night


def test_the_run_worker_is_killed(world: World) -> None:
    """The daemon retries the run, which resumes."""
    run = world.begin()
    world.worker(run).kill()
    assert world.pages.wait_for_run(run, PATIENCE) == "FAILURE"
    world.must_be_whole()
    retries = [r for r in world.pages.runs() if r["tags"].get("dagster/parent_run_id") == run]
    assert [r["status"] for r in retries] == ["SUCCESS"]


def test_a_run_that_fails_is_told(night: World, hook: Server) -> None:
    """A training that cannot be: the hook hears of it from the daemon, and no log holds the hook's secret."""
    impossible = "rkd@resnet18.random~1e-s0r99"
    night.pages.add_training(impossible)
    run = night.pages.launch(TRAIN, f"demo.weave|{impossible}")
    assert night.pages.wait_for_run(run, PATIENCE) == "FAILURE"
    [told] = wait_until(lambda: [r for r in hook.received if r.get("run_id") == run], "the hook to hear of it")
    assert (told["event"], told["job"], told["partition"]) == ("failure", TRAIN, f"demo.weave {impossible}")
    places = [night.rkd.log, *night.store.dagster_home.rglob("*.db"), *night.store.dagster_home.rglob("*.err")]
    assert [p for p in places if SECRET.encode() in p.read_bytes()] == []


def test_two_launches_of_the_same_partition(world: World) -> None:
    """Two runs of the daemon and the command line at once: one trains, the others report what it made."""
    first = world.begin()
    second = world.pages.launch(TRAIN, PARTITION)
    command = world.rkd(*COMMAND)
    assert command.returncode == 0, command.stderr
    assert [world.pages.wait_for_run(run, PATIENCE) for run in (first, second)] == ["SUCCESS", "SUCCESS"]
    world.must_be_whole()


def test_the_daemon_is_killed(world: World) -> None:
    """``rkd ui`` ends with it, and started again goes on."""
    world.begin()
    [daemon] = [p for p in world.pages.processes("dagster._daemon", "run") if "spawn_main" not in " ".join(p.cmdline())]
    ended = world.pages.process
    daemon.kill()
    try:
        ended.wait(timeout=90)
    finally:
        if ended.poll() is None:
            world.kill_everything()
    world.must_be_whole()


def test_everything_is_killed(world: World) -> None:
    """Every process dies at once. The run that was under way is reported as failed at the next start, and retried."""
    run = world.begin()
    world.kill_everything()
    assert world.checkpoint.exists()
    world.must_be_whole()
    assert world.pages.status(run) == "FAILURE"


def test_everything_is_killed_in_an_order_and_the_checkpoint_is_damaged(world: World) -> None:
    """The daemon carries the order to its end; the checkpoint is set aside, and the training starts anew."""
    config = {"targets": ["demo.weave"], "recipes": ["rkd-official-brief"], "seeds": [5], "teacher": "resnet18.random"}
    world.pages.launch("train_targets", ops={"start_training": {"config": config | {"epochs": EPOCHS}}})
    wait_for_epoch(world.checkpoint, world.pages.process, at_least=1)
    world.kill_everything()
    content = world.checkpoint.read_bytes()
    world.checkpoint.write_bytes(content[: len(content) // 2])
    world.must_be_whole()
    assert world.checkpoint.with_suffix(".set-aside").stat().st_size == len(content) // 2
    wait_until(lambda: not open_orders(world.store), "the order to end", PATIENCE)
    [order] = [json.loads(file.read_text()) for file in (world.store.root / FOLDER).glob("*.json")]
    assert order["failures"] == {}


ROOM = 800 << 20  # bytes for a training, its checkpoint and the next one beside it


@pytest.fixture
def small_disk(demo: Rkd, undisturbed: str, tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for the demo's store and a training, which can be made too small."""
    folder = tmp_path / "store"
    folder.mkdir()
    held = sum(file.stat().st_size for file in demo.store.root.rglob("*") if file.is_file())  # a copy parts hard links
    with disk_of_its_own(folder, held + ROOM):
        yield folder


def test_the_disk_is_full(demo: Rkd, undisturbed: str, small_disk: Path) -> None:
    """The run fails and says so; with room again, a new launch finishes the work."""
    world = World.copied(demo, small_disk, undisturbed)
    try:
        run = world.begin()
        worker = world.worker(run)
        filler = small_disk / "filler"
        fill(filler)
        psutil.wait_procs([worker], timeout=PATIENCE)
        assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
        filler.unlink()
        # The disk may have had no room for the event that the run failed; the sensor finds its process gone.
        assert world.pages.wait_for_run(run, PATIENCE) == "FAILURE"
        assert not (small_disk / "metrics" / "demo.weave" / TRAINING).exists()
        world.pages.launch(TRAIN, PARTITION)
        world.must_be_whole()
        said = world.pages.failure(run)  # whoever could write it: the run itself, or whoever found it gone
        assert re.search("No space left on device|disk is full|disk I/O error", said)
        assert "rkd prune" in said
    finally:
        if world.running is not None and world.running.process.poll() is None:
            stop(world.running)
