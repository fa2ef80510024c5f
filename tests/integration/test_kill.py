"""SIGKILL in the middle of a training, and the same command again: nothing is lost, nothing is done twice."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
from safetensors import safe_open

from resources.instance import open_instance
from rkd_pipeline.data.user_targets import OwnTarget, targets_in
from rkd_pipeline.device import Compute
from rkd_pipeline.stages.trained_model import checkpoint_file, read_history, train_model
from rkd_pipeline.store.result_store import Ref
from rkd_pipeline.store.stage_versions import IMAGES, TRAINED_MODEL
from tests.integration.conftest import DEMO, Rkd

# Quick, but not too quick to be killed in the middle; how Reverse KD resumes is in test_training.py.
EPOCHS, RECIPE = 6, "stfpm-brief"
TARGET, TRAINING = "few", f"{RECIPE}@resnet18.random~{EPOCHS}e-s0"
COMMAND = (*DEMO, "--targets", TARGET, "--recipes", RECIPE, "--epochs", str(EPOCHS))


def test_a_killed_run_is_finished_by_the_same_command(
    rkd_in: Callable[..., Rkd], few_images: Path, tmp_path: Path, cpu: Compute
) -> None:
    # One precision in both processes: a machine that knows bfloat16 would train the command's part in it.
    killed = rkd_in(tmp_path, RKD_CHECKPOINT_SECONDS="0", RKD_PRECISION="fp32")
    targets_in(killed.store).add(OwnTarget(TARGET, few_images))
    checkpoint = checkpoint_file(killed.store, TARGET, TRAINING)
    process = killed.start(*COMMAND)
    epoch = wait_for_epoch(checkpoint, process, at_least=1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    assert "interrupted; the next run resumes it" in killed("status").stdout
    assert killed.store.keys(TRAINED_MODEL) == []
    indexed = killed.store.require(IMAGES, TARGET).provenance.environment["finished"]

    again = killed(*COMMAND)
    assert again.returncode == 0, again.stderr
    assert "was left by a process that is gone; reported as failed" in again.stderr
    assert "1 trainings: 0 were done before, 0 failed" in again.stdout
    assert not checkpoint.exists()
    assert killed.store.require(IMAGES, TARGET).provenance.environment["finished"] == indexed

    resumed = killed.store.require(TRAINED_MODEL, TARGET, TRAINING)
    assert len(read_history(resumed)) == EPOCHS
    killed.store.remove(Ref(TRAINED_MODEL.name, TARGET, TRAINING))
    uninterrupted = train_model(killed.store, TARGET, TRAINING, cpu)
    assert resumed.data_version == uninterrupted.data_version  # weights and history, byte for byte
    assert epoch < EPOCHS, "killed too late to show anything"

    instance, dead = open_instance(killed.store)
    assert dead == []
    statuses = {run.status for run in instance.get_runs()}
    assert statuses == {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE}
    assert instance.event_log_storage.get_concurrency_info("device").claimed_slots == []


def wait_for_epoch(checkpoint: Path, process: "subprocess.Popen[str]", at_least: int) -> int:
    """Wait until a checkpoint says so, while the process lives; returns its epoch."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if checkpoint.exists():
            with safe_open(checkpoint, "pt") as file:
                epoch = file.metadata()["progress"].count('"train_loss"')
            if epoch >= at_least:
                return epoch
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    raise AssertionError("no checkpoint within five minutes")
