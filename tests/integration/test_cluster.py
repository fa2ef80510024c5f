"""A cluster of two nodes on one machine, from deploy/cluster: what it computes, and what becomes of it when parts fail.

After each fault the same holds: the training is finished, it was committed once, and its weights are those of a
training that nobody disturbed.
"""

import json
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import safe_open

from rkd_pipeline.device import Compute
from rkd_pipeline.operations.store_care import copy
from rkd_pipeline.settings import Settings
from rkd_pipeline.stages.trained_model import checkpoint_file, train_model
from rkd_pipeline.store.open_store import open_store
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import METRICS, TRAINED_MODEL
from tests.conftest import need
from tests.integration.cluster_lab import ROOT, SECRET, Lab, cluster
from tests.integration.servers import Pages, wait_until
from tests.library.postgres_server import programs

pytestmark = pytest.mark.cluster
TARGET, RECIPE = "few", "stfpm-brief"
LONG = 40  # epochs: long enough to be caught at work


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, few_images: Path) -> Iterator[Lab]:
    found = programs()
    need(found, "PostgreSQL is not installed (Debian: apt-get install postgresql)")
    assert found is not None
    with cluster(tmp_path_factory.mktemp("cluster"), found) as made:
        made.rkd("add-target", TARGET, str(few_images))
        made.start_ui()
        yield made


@pytest.fixture(scope="module")
def pages(lab: Lab) -> Pages:
    assert lab.ui is not None
    return Pages(f"http://127.0.0.1:{lab.ports['dagster']}", lab.tracking.uri, lab.ui)


@pytest.fixture(autouse=True)
def _as_many_threads_as_the_nodes() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store, as a further machine sees it."""
    for name, value in lab.environment_of("further").items():
        monkeypatch.setenv(name, value)
    return open_store(Settings.from_environment())


def command(seeds: str, epochs: int = LONG) -> tuple[str, ...]:
    teacher = ("--teacher", "resnet18", "--weights", "random")
    return ("run", "--targets", TARGET, "--recipes", RECIPE, "--epochs", str(epochs), "--seeds", seeds, *teacher)


def training(seed: int, epochs: int = LONG) -> str:
    return f"{RECIPE}@resnet18.random~{epochs}e-s{seed}"


def test_a_plan_is_shared_by_the_nodes_and_gives_what_one_machine_gives(lab: Lab, store: Store, cpu: Compute) -> None:
    said = lab.rkd(*command("0,1", epochs=3))
    assert "2 trainings: 0 were done before, 0 failed" in said
    for seed in (0, 1):
        require_as_if_undisturbed(store, cpu, training(seed, 3))
    again = lab.rkd(*command("0,1", epochs=3))
    assert "2 trainings: 2 were done before, 0 failed" in again


def test_a_killed_driver_s_run_goes_on_from_its_checkpoint(lab: Lab, pages: Pages, store: Store, cpu: Compute) -> None:
    with AtWork(lab, pages, store, 10) as (run, node):
        [driver] = lab.drivers(node)
        driver.kill()
    require_finished_once(pages, run)
    resumed = store.require(TRAINED_MODEL, TARGET, training(10))
    assert 0 < resumed.facts["timed_epochs"] < LONG  # of the second process; the others were not trained again
    require_as_if_undisturbed(store, cpu, training(10))


def test_no_secret_is_where_people_look(lab: Lab) -> None:
    """The database's password and Ray's token: not in events, lists of jobs, logs, provenance, or what MLflow has."""
    secrets = [SECRET.encode(), lab.environment["RAY_AUTH_TOKEN"].encode()]
    bin = programs()
    assert bin is not None
    dump = subprocess.run([bin / "pg_dump", lab.postgres.address], capture_output=True, check=True).stdout
    assert b"RUN_START" in dump or b"PIPELINE_START" in dump  # it is the database of the events
    texts = {"the databases": dump, "ray job list": json.dumps(lab.jobs()).encode()}
    texts |= {str(p): p.read_bytes() for p in lab.folder.rglob("*") if p.is_file()}
    assert len(texts) > 100
    assert [where for where, text in texts.items() if any(secret in text for secret in secrets)] == []


@pytest.mark.slow
def test_a_lost_node_s_run_goes_on_on_the_other(lab: Lab, pages: Pages, store: Store, cpu: Compute) -> None:
    with AtWork(lab, pages, store, 20) as (run, node):
        gone = lab.nodes[node].signal(signal.SIGKILL)
        psutil.wait_procs(gone, timeout=30)
    lab.start_node(node)
    require_finished_once(pages, run)
    require_as_if_undisturbed(store, cpu, training(20))


@pytest.mark.slow
def test_a_frozen_node_s_process_ends_without_a_word_when_it_thaws(
    lab: Lab, pages: Pages, store: Store, cpu: Compute
) -> None:
    with AtWork(lab, pages, store, 11) as (run, node):
        [driver] = lab.drivers(node)
        frozen = lab.nodes[node].signal(signal.SIGSTOP)
    require_finished_once(pages, run)
    events = event_types(pages, run)
    for process in frozen:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
    psutil.wait_procs([driver], timeout=60)
    assert not driver.is_running()
    assert event_types(pages, run) == events
    require_as_if_undisturbed(store, cpu, training(11))
    psutil.wait_procs(
        lab.nodes[node].signal(signal.SIGKILL), timeout=30
    )  # a thawed raylet ends, or should not come back
    lab.start_node(node)


@pytest.mark.slow
def test_a_restarted_head_leaves_one_process_that_writes(lab: Lab, pages: Pages, store: Store, cpu: Compute) -> None:
    with AtWork(lab, pages, store, 12) as (run, _):
        psutil.wait_procs(lab.nodes["head"].signal(signal.SIGKILL), timeout=30)
        time.sleep(5)
        lab.start_head()
        for name in ("a", "b"):
            psutil.wait_procs(lab.nodes[name].signal(signal.SIGTERM), timeout=60)
            lab.start_node(name)
    require_finished_once(pages, run)
    require_as_if_undisturbed(store, cpu, training(12))


@pytest.mark.slow
def test_a_dead_daemon_and_webserver_are_not_missed(lab: Lab, pages: Pages, store: Store, cpu: Compute) -> None:
    assert lab.ui is not None
    with AtWork(lab, pages, store, 13) as (run, _):
        ui = psutil.Process(lab.ui.pid)
        servers = [ui, *ui.children(recursive=True)]
        for process in servers:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        lab.ui.wait()
        lab.start_ui()
    require_finished_once(pages, run)
    require_as_if_undisturbed(store, cpu, training(13))


@pytest.mark.slow
def test_a_restarted_database_costs_an_epoch_at_most(lab: Lab, pages: Pages, store: Store, cpu: Compute) -> None:
    with AtWork(lab, pages, store, 14) as (run, _):
        lab.postgres.stop()
        time.sleep(3)
        lab.postgres.start()
    require_finished_once(pages, run)
    require_as_if_undisturbed(store, cpu, training(14))


@pytest.mark.slow
def test_mlflow_away_costs_the_mirror_alone(lab: Lab, pages: Pages, store: Store, cpu: Compute) -> None:
    with AtWork(lab, pages, store, 15):
        lab.tracking.signal(signal.SIGKILL)
    require_as_if_undisturbed(store, cpu, training(15))
    lab.tracking.start()
    assert "not yet" in lab.rkd("status")
    lab.rkd("mirror")
    assert "not yet" not in lab.rkd("status")


@pytest.mark.slow
def test_one_partition_launched_twice_is_trained_once(lab: Lab, pages: Pages, store: Store) -> None:
    key = training(16, 3)
    pages.add_training(key)
    runs = [pages.launch("train_and_evaluate", f"{TARGET}|{key}") for _ in range(2)]
    assert [pages.wait_for_run(run, 600) for run in runs] == ["SUCCESS", "SUCCESS"]
    assert store.require(TRAINED_MODEL, TARGET, key).record.number == 1
    assert store.require(METRICS, TARGET, key).record.number == 1


@pytest.mark.slow
def test_a_node_with_other_code_is_refused(lab: Lab, pages: Pages, tmp_path: Path) -> None:
    for folder in ("rkd_pipeline", "resources", "assets"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    with (tmp_path / "rkd_pipeline" / "names.py").open("a") as changed:
        changed.write("\n# a line more\n")
    before = lab.environment["PYTHONPATH"]
    lab.environment["PYTHONPATH"] = str(tmp_path)
    lab.start_node("other")
    lab.environment["PYTHONPATH"] = before
    try:
        key = training(17, 3)
        pages.add_training(key)
        there = {"dagster-ray/config": json.dumps({"num_cpus": 1, "resources": {"other": 1}, "env_vars": ["PATH"]})}
        run = pages.launch("train_and_evaluate", f"{TARGET}|{key}", there)
        assert pages.wait_for_run(run, 600) == "FAILURE"
        assert "has other code than the machine that launched this run: rkd-pipeline" in pages.failure(run)
    finally:
        lab.nodes["other"].signal(signal.SIGKILL)


@pytest.mark.slow
def test_ctrl_c_leaves_the_order_to_the_cluster(lab: Lab, pages: Pages, store: Store) -> None:
    process = lab.start(*command("18", epochs=3))
    assert process.stdout is not None
    for line in process.stdout:
        if "order run-" in line:
            break
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on without this command" in said
    wait_until(lambda: store.find(Ref(METRICS.name, TARGET, training(18, 3))), "the cluster to go on", 600)


class AtWork:
    """Catches a training in the middle: its run and the node that it runs on; waits for its end afterwards."""

    def __init__(self, lab: Lab, pages: Pages, store: Store, seed: int) -> None:
        self._lab, self._pages, self._store, self._seed = lab, pages, store, seed

    def __enter__(self) -> tuple[str, str]:
        self._command = self._lab.start(*command(str(self._seed)))
        kept = self._lab.folder / "shared" / "backups" / "checkpoints" / TARGET
        wait_until(lambda: _epochs(kept, self._seed) >= 2, "the second epoch", 600)
        self._begun = _epochs(kept, self._seed)
        partition = f"{TARGET}|{training(self._seed)}"
        runs = [run for run in self._pages.runs() if run["tags"].get("dagster/partition") == partition]
        [run] = [run["runId"] for run in runs if run["jobName"] == "train_and_evaluate"]
        nodes = [name for name in ("a", "b") if any(_works_on(d, run) for d in self._lab.drivers(name))]
        return run, nodes[0]

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            self._command.kill()
            return
        said, _ = self._command.communicate(timeout=900)
        assert self._command.returncode == 0, said
        assert "1 trainings: 0 were done before, 0 failed" in said


def _epochs(kept: Path, seed: int) -> int:
    """In the checkpoint that lies where all nodes see it."""
    for file in kept.glob(f"*s{seed}.safetensors"):
        with suppress(OSError), safe_open(file, "pt") as checkpoint:
            return int(checkpoint.metadata()["progress"].count('"train_loss"'))
    return 0


def _works_on(process: psutil.Process, run: str) -> bool:
    with suppress(psutil.Error):
        return process.environ().get("RKD_LAUNCHED_RUN") == run
    return False


def event_types(pages: Pages, run: str) -> Counter[str]:
    """How many events of each kind a run has."""
    query = "query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events { __typename } } } }"
    return Counter(event["__typename"] for event in pages.graphql(query, id=run)["events"])


def require_finished_once(pages: Pages, run: str) -> None:
    """Success, said once, and every asset reported once, however many processes worked on the run."""
    assert pages.wait_for_run(run) == "SUCCESS"
    said = event_types(pages, run)
    assert said["RunSuccessEvent"] == 1
    assert said["RunFailureEvent"] == 0


def require_as_if_undisturbed(store: Store, cpu: Compute, key: str) -> None:
    """Committed once, and the same bytes as a training in this process, which nobody disturbs."""
    for stage in (TRAINED_MODEL, METRICS):
        assert store.require(stage, TARGET, key).record.number == 1
    assert not checkpoint_file(store, TARGET, key).exists()
    assert store.place.backups("checkpoints") == []
    there = store.require(TRAINED_MODEL, TARGET, key)
    alone = Store(store.root.parent / f"alone {key}")
    copy(store, alone)
    alone.remove(Ref(TRAINED_MODEL.name, TARGET, key))
    here = train_model(alone, TARGET, key, cpu)
    assert there.data_version == here.data_version
