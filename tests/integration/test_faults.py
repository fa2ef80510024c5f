"""What breaks at night, broken on purpose, with the real daemon and webserver: docs/reliability.md has the table.

After each fault: a restart (or the daemon alone) finishes the work; the result is byte for byte that of a training
which nothing disturbed; no partial file counts as whole; the next launch is not held up by a slot of a dead run.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from resources.instance import open_instance
from resources.liveness import PID_TAG
from rkd_pipeline.flow import METRICS, TRAINED_MODEL
from rkd_pipeline.stages.training import checkpoint_file, read_history
from rkd_pipeline.store import Store
from tests.integration.conftest import DEMO, Rkd
from tests.integration.servers import Pages, kill_everything, serving, start, wait_until
from tests.integration.test_kill import wait_for_epoch

pytestmark = pytest.mark.slow

EPOCHS = 6
TRAINING = f"rkd-official@resnet18.random~{EPOCHS}e-s5"
PARTITION = f"demo.weave|{TRAINING}"
TRAIN = "train_and_evaluate"


@pytest.fixture(scope="module")
def undisturbed(demo: Rkd) -> str:
    """Data version of the training when nothing happens to it: weights and history, byte for byte."""
    done = demo(*DEMO, "--epochs", str(EPOCHS), "--seeds", "5")
    assert done.returncode == 0, done.stderr
    return demo.store.require(TRAINED_MODEL, "demo.weave", TRAINING).data_version


@dataclass(frozen=True)
class World:
    """A store of its own, in which the data is prepared and the training is not begun."""

    rkd: Rkd
    undisturbed: str

    @property
    def store(self) -> Store:
        return self.rkd.store

    @property
    def checkpoint(self) -> Path:
        return checkpoint_file(self.store, "demo.weave", TRAINING)

    def begin(self, pages: Pages) -> str:
        """Launch the training and wait until it is past its first epoch; returns the run's id."""
        pages.add_training(TRAINING)
        run = pages.launch(TRAIN, PARTITION)
        wait_for_epoch(self.checkpoint, pages.process, at_least=1)
        return run

    def worker(self, pages: Pages, run: str) -> psutil.Process:
        """The process that trains."""
        [tags] = [r["tags"] for r in pages.runs() if r["runId"] == run]
        return psutil.Process(int(tags[PID_TAG]))

    def wait_until_done(self, seconds: float = 420) -> None:
        """Until the store has the metrics, whoever makes them."""
        wait_until(self._metrics().exists, "the metrics of the training", seconds)

    def _metrics(self) -> Path:
        return self.store.root / METRICS.name / "demo.weave" / TRAINING / "provenance.json"

    def must_be_whole(self, pages: Pages) -> None:
        """What is true after every fault."""
        self.wait_until_done()
        wait_until(lambda: not _unfinished(pages), "every run to end", 180)
        model = self.store.require(TRAINED_MODEL, "demo.weave", TRAINING)
        assert model.data_version == self.undisturbed
        assert len(read_history(model)) == EPOCHS
        assert not self.checkpoint.exists()
        half_made = [p for p in self.store.root.glob("*/demo.weave/.*.tmp") if p.is_dir()]
        assert half_made == []
        again = pages.launch(TRAIN, PARTITION)
        assert pages.wait_for_run(again, 120) == "SUCCESS"  # nobody holds its slot or its locks
        instance, _ = open_instance(self.store)
        assert instance.event_log_storage.get_concurrency_info("device").claimed_slots == []
        assert self.store.require(TRAINED_MODEL, "demo.weave", TRAINING).provenance == model.provenance


def _unfinished(pages: Pages) -> list[str]:
    return [r["runId"] for r in pages.runs() if r["status"] not in ("SUCCESS", "FAILURE", "CANCELED")]


@pytest.fixture
def world(demo: Rkd, undisturbed: str, tmp_path: Path) -> World:
    store = Store(tmp_path / "store")
    shutil.copytree(demo.store.root, store.root)
    for stage in ("trained_model", "anomaly_scores", "metrics"):
        shutil.rmtree(store.root / stage / "demo.weave" / TRAINING, ignore_errors=True)
    (store.root / "tracking" / "demo.weave" / f"{TRAINING}.json").unlink()
    return World(Rkd(store, demo.environment | {"RKD_CHECKPOINT_SECONDS": "0"}), undisturbed)


def test_the_run_worker_is_killed(world: World) -> None:
    """The daemon retries the run, which resumes."""
    with serving(world.rkd) as pages:
        run = world.begin(pages)
        world.worker(pages, run).kill()
        assert pages.wait_for_run(run, 120) == "FAILURE"
        world.must_be_whole(pages)
        retries = [r for r in pages.runs() if r["tags"].get("dagster/parent_run_id") == run]
        assert [r["status"] for r in retries] == ["SUCCESS"]


def test_the_daemon_is_killed(world: World) -> None:
    """``rkd ui`` ends with it, and started again goes on."""
    pages = start(world.rkd)
    world.begin(pages)
    [daemon] = [p for p in pages.processes("dagster", "daemon", "run") if "multiprocessing" not in str(p.cmdline())]
    daemon.kill()
    try:
        pages.process.wait(timeout=90)
    finally:
        if pages.process.poll() is None:
            kill_everything(pages)
    with serving(world.rkd) as again:
        world.must_be_whole(again)


def test_everything_is_killed(world: World) -> None:
    """The power goes. The run that was under way is reported as failed at the next start, and retried."""
    pages = start(world.rkd)
    run = world.begin(pages)
    kill_everything(pages)
    assert world.checkpoint.exists()
    with serving(world.rkd) as again:
        world.must_be_whole(again)
        assert again.status(run) == "FAILURE"


def test_everything_is_killed_in_the_middle_of_a_backfill(world: World) -> None:
    """Two trainings were asked for at once; after the restart the daemon carries the backfill to its end."""
    other = TRAINING.replace("-s5", "-s6").replace(f"~{EPOCHS}e", "~1e")
    config = {"targets": ["demo.weave"], "recipes": ["rkd-official"], "seeds": [5], "teacher": "resnet18.random"}
    pages = start(world.rkd)
    for seeds, epochs in (([5], EPOCHS), ([6], 1)):
        started = config | {"seeds": seeds, "epochs": epochs}
        pages.launch("train_targets", ops={"start_training": {"config": started}})
    wait_for_epoch(world.checkpoint, pages.process, at_least=1)
    kill_everything(pages)
    with serving(world.rkd) as again:
        world.must_be_whole(again)
        other_metrics = world.store.root / METRICS.name / "demo.weave" / other / "provenance.json"
        wait_until(other_metrics.exists, "the second training of the backfill", 300)


def test_two_launches_of_the_same_partition(world: World) -> None:
    """Two runs of the daemon and the command line at once: one trains, the others report what it made."""
    with serving(world.rkd) as pages:
        first = world.begin(pages)
        second = pages.launch(TRAIN, PARTITION)
        command = world.rkd(*DEMO, "--epochs", str(EPOCHS), "--seeds", "5")
        assert command.returncode == 0, command.stderr
        assert [pages.wait_for_run(run) for run in (first, second)] == ["SUCCESS", "SUCCESS"]
        world.must_be_whole(pages)


def test_a_checkpoint_is_damaged(world: World) -> None:
    """It is set aside with a warning, and the training starts anew."""
    pages = start(world.rkd)
    world.begin(pages)
    kill_everything(pages)
    content = world.checkpoint.read_bytes()
    world.checkpoint.write_bytes(content[: len(content) // 2])
    with serving(world.rkd) as again:
        world.must_be_whole(again)
    assert world.checkpoint.with_suffix(".set-aside").stat().st_size == len(content) // 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which can be made too small."""
    folder = tmp_path / "store"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500m", "rkd", str(folder)]).returncode:
        pytest.skip("a file system of its own can only be mounted by root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_the_disk_is_full(demo: Rkd, undisturbed: str, small_disk: Path) -> None:
    """The run fails and says so; with room again, a new launch finishes the work."""
    shutil.copytree(demo.store.root, small_disk, dirs_exist_ok=True)
    for stage in ("trained_model", "anomaly_scores", "metrics"):
        shutil.rmtree(small_disk / stage / "demo.weave" / TRAINING)
    (small_disk / "tracking" / "demo.weave" / f"{TRAINING}.json").unlink()
    world = World(Rkd(Store(small_disk), demo.environment | {"RKD_CHECKPOINT_SECONDS": "0"}), undisturbed)
    with serving(world.rkd) as pages:
        run = world.begin(pages)
        filler = small_disk / "filler"
        _fill(filler)
        ended = _ended_or_dead(world, pages, run)
        filler.unlink()
        if not ended:
            wait_until(lambda: pages.status(run) in ("FAILURE", "SUCCESS"), "the dead run to be reported", 120)
        assert not (small_disk / "metrics" / "demo.weave" / TRAINING).exists()
        pages.launch(TRAIN, PARTITION)
        world.must_be_whole(pages)
    log = world.rkd.log.read_text(errors="replace")
    assert re.search("No space left on device|disk is full", log)


def _fill(file: Path) -> None:
    """Write until the kernel refuses, as often as something is freed within two seconds."""
    with file.open("ab", buffering=0) as stream:
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            try:
                stream.write(b"\0" * 2**16)
            except OSError:
                time.sleep(0.05)


def _ended_or_dead(world: World, pages: Pages, run: str) -> bool:
    """Wait until the training's process is gone; True where its run says so too."""
    worker = world.worker(pages, run)
    psutil.wait_procs([worker], timeout=180)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    return pages.status(run) in ("FAILURE", "SUCCESS")
