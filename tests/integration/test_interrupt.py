"""SIGTERM, then Ctrl-C, in the middle of ``rkd run``: the whole command ends, and the same command goes on."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from resources.instance import open_instance
from rkd_pipeline.data.user_targets import OwnTarget, targets_in
from rkd_pipeline.device import Compute
from rkd_pipeline.stages.trained_model import checkpoint_file, read_history, train_model
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import METRICS, TRAINED_MODEL
from tests.integration.conftest import Rkd
from tests.integration.test_kill import wait_for_epoch

EPOCHS = 4
TARGET = "few"
FIRST, SECOND = (f"rkd@resnet18.random~{EPOCHS}e-s{seed}" for seed in (0, 1))
COMMAND = ("run", "--targets", TARGET, "--recipes", "rkd", "--teacher", "resnet18", "--weights",
           "random", "--epochs", str(EPOCHS))  # fmt: skip


@pytest.mark.slow
def test_a_signal_ends_the_command_which_goes_on_later(
    rkd_in: Callable[..., Rkd], few_images: Path, tmp_path: Path, cpu: Compute
) -> None:
    # One precision in both processes: a machine that knows bfloat16 would train the command's part in it.
    rkd = rkd_in(tmp_path, RKD_CHECKPOINT_SECONDS="0", RKD_PRECISION="fp32")
    targets_in(rkd.store).add(OwnTarget(TARGET, few_images))
    store, checkpoint = rkd.store, checkpoint_file(rkd.store, TARGET, FIRST)

    reached = 0
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = rkd.start(*COMMAND, "--seeds", "0,1")
        reached = wait_for_epoch(checkpoint, process, at_least=reached + 1)
        os.killpg(process.pid, number)  # as a terminal does, and systemd: Dagster's helpers get it too
        out, err = process.communicate(timeout=120)
        assert process.returncode == status, err
        assert err.endswith(f"\nrkd: ended by {number.name}; the same command goes on from here\n")
        assert "rkd_pipeline" not in err  # no trace of ours; Dagster's helpers may leave one after Ctrl-C
        assert out == ""
        must_have_stopped(store)
        reached = wait_for_epoch(checkpoint, process, at_least=reached)
        assert reached < EPOCHS, "interrupted too late to show anything"

    half = checkpoint.with_name(f".{checkpoint.name}.0123abcd.tmp")
    half.write_bytes(b"of a process that was killed while it wrote")
    resumed = train_model(store, TARGET, FIRST, cpu)
    assert len(read_history(resumed)) == EPOCHS
    assert resumed.facts["timed_epochs"] == EPOCHS - reached
    assert list(checkpoint.parent.iterdir()) == []

    store.remove(Ref(TRAINED_MODEL.name, TARGET, FIRST))
    uninterrupted = train_model(store, TARGET, FIRST, cpu)
    assert uninterrupted.data_version == resumed.data_version  # weights and history, byte for byte


def must_have_stopped(store: Store) -> None:
    """Nothing came of it, the second training was not begun, and no run, lock or half result is left."""
    assert store.keys(TRAINED_MODEL) == store.keys(METRICS) == []
    assert store.at_work() == []
    assert list(store.root.glob("**/.*.tmp")) == []
    instance, dead = open_instance(store)
    assert dead == []
    trainings = [run for run in instance.get_runs() if run.job_name == "train_and_evaluate"]
    assert {run.tags["dagster/partition/training"] for run in trainings} == {FIRST}
    assert {run.status for run in trainings} == {dg.DagsterRunStatus.FAILURE}
