"""What tests of a cluster share: trainings, one caught at work, and what must hold after a fault."""

import json
import subprocess
from collections import Counter
from contextlib import suppress

import psutil

from rkd_pipeline.device import Compute
from rkd_pipeline.operations.store_care import copy
from rkd_pipeline.stages.trained_model import checkpoint_file, train_model
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import METRICS, TRAINED_MODEL
from tests.integration.cluster.lab import SECRET, Lab
from tests.integration.servers import Pages, wait_until
from tests.library.postgres_server import programs

TARGET, RECIPE = "few", "stfpm-brief"
LONG = 24  # epochs: long enough to be caught at work


def command(seeds: str, epochs: int = LONG) -> tuple[str, ...]:
    """Words of an order."""
    teacher = ("--teacher", "resnet18", "--weights", "random")
    return ("run", "--targets", TARGET, "--recipes", RECIPE, "--epochs", str(epochs), "--seeds", seeds, *teacher)


def training(seed: int, epochs: int = LONG) -> str:
    """Its key."""
    return f"{RECIPE}@resnet18.random~{epochs}e-s{seed}"


class AtWork:
    """Catches a training in the middle: its run and the node that it runs on; waits for its end afterwards."""

    def __init__(self, lab: Lab, pages: Pages, store: Store, seed: int) -> None:
        self._lab, self._pages, self._store, self._seed = lab, pages, store, seed

    def __enter__(self) -> tuple[str, str]:
        self._command = self._lab.start(*command(str(self._seed)))
        wait_until(lambda: self._lab.place.epochs(TARGET, self._seed) >= 2, "the second epoch", 600)
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


def _works_on(process: psutil.Process, run: str) -> bool:
    with suppress(psutil.Error):
        return process.environ().get("RKD_LAUNCHED_RUN") == run
    return False


def event_types(pages: Pages, run: str) -> Counter[str]:
    """How many events of each kind a run has."""
    query = "query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events { __typename } } } }"
    return Counter(event["__typename"] for event in pages.graphql(query, id=run)["events"])


def require_finished_once(pages: Pages, run: str) -> None:
    """Success, said once, however many processes worked on the run, and none of them left."""
    require_success_once(pages, run)
    require_no_process(run)


def require_success_once(pages: Pages, run: str) -> None:
    assert pages.wait_for_run(run) == "SUCCESS"
    said = event_types(pages, run)
    assert said["RunSuccessEvent"] == 1
    assert said["RunFailureEvent"] == 0


def require_no_process(run: str) -> None:
    """None is left that would hold a GPU, wherever its node has gone."""
    wait_until(
        lambda: not [p for p in psutil.process_iter() if _works_on(p, run)], "every process of the run to end", 60
    )


def require_no_secret(lab: Lab) -> None:
    """Passwords, keys and Ray's token: not in events, lists of jobs, logs, provenance, or what MLflow has."""
    secrets = [SECRET, lab.environment["RAY_AUTH_TOKEN"], *lab.place.secrets]
    bin = programs()
    assert bin is not None
    dump = subprocess.run([bin / "pg_dump", lab.postgres.address], capture_output=True, check=True).stdout
    assert b"RUN_START" in dump or b"PIPELINE_START" in dump  # it is the database of the events
    texts = {"the databases": dump, "ray job list": json.dumps(lab.jobs()).encode()}
    texts |= {str(p): p.read_bytes() for p in lab.folder.rglob("*") if p.is_file()}
    assert len(texts) > 100
    assert [where for where, text in texts.items() if any(secret.encode() in text for secret in secrets)] == []


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
