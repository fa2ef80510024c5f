"""A cluster whose results and MLflow's artifacts lie in a bucket of Ceph's gateway: what it computes, and its faults.

MLflow is on PostgreSQL, and alone reaches its artifacts. What is in a bucket of whichever server is in
``tests/library/test_place.py``.
"""

import json
import signal
import time
from pathlib import Path

import mlflow
import obstore
import psutil
import pytest

from resources.ray_launcher import RESOURCES_TAG
from rkd_pipeline.device import Compute
from rkd_pipeline.store.result_store import Store
from rkd_pipeline.store.stage_versions import TRAINED_MODEL
from tests.integration.cluster.faults import (
    LONG,
    TARGET,
    AtWork,
    command,
    require_as_if_undisturbed,
    require_finished_once,
    require_no_secret,
    training,
)
from tests.integration.cluster.lab import Lab
from tests.integration.servers import Pages

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture(scope="module")
def kind() -> str:
    """Of the place that holds the results."""
    return "ceph"


def test_a_plan_gives_what_one_machine_gives(lab: Lab, store: Store, cpu: Compute) -> None:
    said = lab.rkd(*command("0,1", epochs=3))
    assert "2 trainings: 0 were done before, 0 failed" in said
    for seed in (0, 1):
        require_as_if_undisturbed(store, cpu, training(seed, 3))


def test_mlflow_s_artifacts_are_in_the_bucket_and_are_read_without_its_keys(lab: Lab) -> None:
    assert lab.place.server is not None
    assert [name for name in lab.place.server.names() if name.startswith("mlflow/")]
    client = mlflow.MlflowClient(lab.environment["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=100)
    [run] = [r for r in runs if r.data.tags.get("rkd.training") == training(0, 3)]
    assert run.info.artifact_uri is not None
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert client.list_artifacts(run.info.run_id)


def test_a_run_that_never_begins_fails_soon_and_shows_no_key_of_the_bucket(
    lab: Lab, pages: Pages, tmp_path: Path
) -> None:
    """What Dagster and Ray say of a failed job is longer than of others."""
    program = tmp_path / "dagster"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    asked = {"num_cpus": 1, "env_vars": [f"PATH={tmp_path}:{lab.environment['PATH']}"]}
    failed = pages.launch("train_and_evaluate", f"{TARGET}|{training(0, 3)}", {RESOURCES_TAG: json.dumps(asked)})
    assert pages.wait_for_run(failed, 600) == "FAILURE"
    assert "its process ended before it began" in pages.failure(failed)
    require_no_secret(lab)


def test_the_gateway_killed_while_checkpoints_are_uploaded(lab: Lab, pages: Pages, store: Store, cpu: Compute) -> None:
    assert lab.place.server is not None
    with AtWork(lab, pages, store, 20) as (run, _):
        lab.place.server.kill()
        time.sleep(5)
        lab.place.server.start()
    require_finished_once(pages, run)
    require_as_if_undisturbed(store, cpu, training(20))


def test_a_checkpoint_that_was_cut_short_is_not_used(lab: Lab, pages: Pages, store: Store, cpu: Compute) -> None:
    """Its run goes on on the other node, which has no other checkpoint: it begins anew, and says why."""
    with AtWork(lab, pages, store, 21) as (run, node):
        killed = lab.nodes[node].signal(signal.SIGKILL)
        [name] = lab.place.names(f"backups/checkpoints/{TARGET}")
        whole = bytes(obstore.get(lab.place.objects, name).bytes())
        obstore.put(lab.place.objects, name, whole[: len(whole) // 2])  # before the other node looks for it
        psutil.wait_procs(killed, timeout=30)
    lab.start_node(node)
    require_finished_once(pages, run)
    require_as_if_undisturbed(store, cpu, training(21))
    assert store.require(TRAINED_MODEL, TARGET, training(21)).facts["timed_epochs"] == LONG
