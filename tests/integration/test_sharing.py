"""``rkd run`` where trainings share the CPU: a helper carries out some, and the numbers are those of one alone."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from resources.compute import DEVICE_POOL
from resources.instance import open_instance
from rkd_pipeline.data.user_targets import OwnTarget, targets_in
from rkd_pipeline.device import Compute, cores
from rkd_pipeline.stages.trained_model import checkpoint_file, train_model
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import METRICS, TRAINED_MODEL
from tests.integration.conftest import Rkd
from tests.integration.test_kill import wait_for_epoch

TARGET, EPOCHS = "few", 3
SHARED = {"RKD_TRAININGS_PER_DEVICE": "2", "RKD_PRECISION": "fp32", "RKD_DEVICE": "cpu"}


def command(seeds: str, epochs: int = EPOCHS) -> tuple[str, ...]:
    teacher = ("--teacher", "resnet18", "--weights", "random")
    return ("run", "--targets", TARGET, "--recipes", "stfpm-brief", "--epochs", str(epochs), "--seeds", seeds, *teacher)


def training(seed: int, epochs: int = EPOCHS) -> str:
    return f"stfpm-brief@resnet18.random~{epochs}e-s{seed}"


@pytest.mark.slow
def test_a_helper_shares_the_work_and_changes_no_number(
    rkd_in: Callable[..., Rkd], few_images: Path, tmp_path: Path, cpu: Compute
) -> None:
    rkd = rkd_in(tmp_path, **SHARED)
    targets_in(rkd.store).add(OwnTarget(TARGET, few_images))
    done = rkd(*command("0,1,2,3"))
    assert done.returncode == 0, done.stderr
    assert "4 trainings: 0 were done before, 0 failed" in done.stdout
    threads = int(os.environ.get("OMP_NUM_THREADS", max(1, cores() // 2)))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for seed in range(4):
            shared = rkd.store.require(TRAINED_MODEL, TARGET, training(seed))
            assert shared.facts["threads"] == threads
            rkd.store.require(METRICS, TARGET, training(seed))
            rkd.store.remove(Ref(TRAINED_MODEL.name, TARGET, training(seed)))
            assert train_model(rkd.store, TARGET, training(seed), cpu).data_version == shared.data_version
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_a_signal_to_the_command_alone_ends_its_helper_too(
    rkd_in: Callable[..., Rkd], few_images: Path, tmp_path: Path
) -> None:
    rkd = rkd_in(tmp_path, RKD_CHECKPOINT_SECONDS="0", **SHARED)
    targets_in(rkd.store).add(OwnTarget(TARGET, few_images))
    process = rkd.start(*command("0,1,2,3", 40))
    # Seed 1 is whose turn comes second: the helper's, or the command's where the helper was slow to start.
    wait_for_epoch(checkpoint_file(rkd.store, TARGET, training(1, 40)), process, at_least=1)
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "ended by SIGTERM; the same command goes on from here" in err
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody is left of its group
    assert rkd.store.at_work() == []


def test_the_daemon_starts_as_many_runs_as_share_a_device(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the pool's limit and for that of all runs; who names no number changes nothing of the pool's."""
    monkeypatch.setenv("DAGSTER_HOME", "as it was")  # opening sets it
    for slots, limit, runs in ((None, None, 4), (6, 6, 7), (None, 6, 4), (2, 2, 4)):
        instance, _ = open_instance(store, slots)
        limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
        assert limits.get(DEVICE_POOL) == limit
        assert f"max_concurrent_runs: {runs} " in (store.dagster_home / "dagster.yaml").read_text()
        assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == runs
        instance.dispose()
