"""A cluster of two nodes on one machine, from deploy/cluster: what it computes, and what becomes of it when parts fail.

After each fault the same holds: the training is finished, it was committed once, and its weights are those of a
training that nobody disturbed.
"""

import json
import re
import shutil
import signal
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil
import pytest

from resources.ray_launcher import RESOURCES_TAG
from rkd_pipeline.device import Compute
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import METRICS, TRAINED_MODEL
from tests.integration.cluster.faults import (
    LONG,
    TARGET,
    AtWork,
    command,
    event_types,
    require_as_if_undisturbed,
    require_finished_once,
    require_no_process,
    require_no_secret,
    require_success_once,
    training,
)
from tests.integration.cluster.lab import ROOT, Lab
from tests.integration.servers import Pages, wait_until
from tests.library.small_disks import disk_of_its_own, fill

pytestmark = pytest.mark.cluster
ROOM = 400 << 20  # bytes of a small disk: for a training, its checkpoint and the next one beside it


@pytest.fixture(scope="module")
def kind() -> str:
    """Of the place that holds the results."""
    return "folder"


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
    require_no_secret(lab)


def test_ray_s_job_server_asks_for_the_token(lab: Lab) -> None:
    with pytest.raises(HTTPError) as refused:
        urlopen(f"{lab.environment['RKD_RAY']}/api/jobs/", timeout=30)
    assert refused.value.code in (401, 403)


@pytest.mark.slow
def test_check_cluster_asks_every_node(lab: Lab) -> None:
    said = lab.rkd("check-cluster")
    assert "2 nodes answered" in said
    assert "nothing is wrong" in said


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
    with ExitStack() as afterwards:
        with AtWork(lab, pages, store, 11) as (run, node):
            [driver] = lab.drivers(node)
            frozen = lab.nodes[node].signal(signal.SIGSTOP)
            afterwards.callback(lab.replace_node, node)  # a thawed raylet ends, or should not come back
        require_success_once(pages, run)
        events = event_types(pages, run)
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
        psutil.wait_procs([driver], timeout=60)
        assert not driver.is_running()
        require_no_process(run)
        assert event_types(pages, run) == events
        require_as_if_undisturbed(store, cpu, training(11))


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
def test_one_partition_launched_from_two_nodes_is_trained_once(lab: Lab, pages: Pages, store: Store) -> None:
    key = training(16, 3)
    pages.add_training(key)
    on = [{RESOURCES_TAG: json.dumps({"num_cpus": 1, "resources": {node: 0.1}})} for node in ("a", "b")]
    runs = [pages.launch("train_and_evaluate", f"{TARGET}|{key}", tags) for tags in on]
    assert [pages.wait_for_run(run, 600) for run in runs] == ["SUCCESS", "SUCCESS"]
    assert store.require(TRAINED_MODEL, TARGET, key).record.number == 1
    assert store.require(METRICS, TARGET, key).record.number == 1


@pytest.mark.slow
def test_a_full_cache_disk_fails_the_run_and_says_so(lab: Lab, pages: Pages, store: Store, cpu: Compute) -> None:
    """With room again, a new launch goes on from the checkpoint that was uploaded."""
    key = training(19)
    disk = lab.folder / "small" / "cache"
    disk.mkdir(parents=True)
    with disk_of_its_own(disk, ROOM):
        lab.start_node("small")
        try:
            pages.add_training(key)
            run = pages.launch("train_and_evaluate", f"{TARGET}|{key}", _on("small"))
            wait_until(lambda: lab.place.epochs(TARGET, 19) >= 2, "the second epoch", 600)
            fill(disk / "filler")
            assert pages.wait_for_run(run, 600) == "FAILURE"
            assert re.search("No space left on device|disk .* is full", pages.failure(run))
            (disk / "filler").unlink()
            again = pages.launch("train_and_evaluate", f"{TARGET}|{key}", _on("small"))
            require_finished_once(pages, again)
            assert store.require(TRAINED_MODEL, TARGET, key).facts["timed_epochs"] < LONG
            require_as_if_undisturbed(store, cpu, key)
        finally:
            psutil.wait_procs(lab.nodes["small"].signal(signal.SIGKILL), timeout=30)


def _on(node: str, env_vars: tuple[str, ...] = ("PATH", "PYTHONPATH")) -> dict[str, str]:
    """Tags of a run that is meant for one node."""
    asked = {"num_cpus": 1, "resources": {node: 1}, "env_vars": list(env_vars)}
    return {"dagster-ray/config": json.dumps(asked)}


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
        run = pages.launch("train_and_evaluate", f"{TARGET}|{key}", _on("other", ("PATH",)))
        assert pages.wait_for_run(run, 600) == "FAILURE"
        assert "has other code than the machine that launched this run: rkd-pipeline" in pages.failure(run)
        check = lab.start("check-cluster")
        said, _ = check.communicate(timeout=600)
        assert check.returncode == 1, said
        assert "3 nodes answered" in said
        assert "rkd-pipeline is" in said, said
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
