"""The Dagster instance of a store: its home, and the runs of dead processes put right."""

import os
from importlib.resources import files
from pathlib import Path

import dagster as dg

from resources.compute import DEVICE_POOL, TABLES_POOL
from resources.liveness import fail_dead_runs
from rkd_pipeline.store.files import write_atomically
from rkd_pipeline.store.result_store import Store

_RUNS = "max_concurrent_runs: 4"


def open_instance(
    store: Store, device_slots: int | None = None, configuration: Path | None = None
) -> tuple[dg.DagsterInstance, list[str]]:
    """The instance of a store, and the ids of dead runs that were reported failed.

    Sets ``DAGSTER_HOME`` for this process and its children, so that they all see the same history.

    Args:
        store: whose. The instance's home is a folder of this machine.
        device_slots: how many runs that compute the daemon may start at once; left as it is where None.
        configuration: says where runs are recorded and carried out, if not here (``RKD_DAGSTER_YAML``), and how many.
    """
    home = store.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    own = _configuration(device_slots or 1).encode()
    write_atomically(home / "dagster.yaml", configuration.read_bytes() if configuration else own)
    os.environ["DAGSTER_HOME"] = str(home)
    with store.machine_lock("dagster instance"):  # two processes must not create its databases at once
        instance = dg.DagsterInstance.get()
        if configuration is not None:
            instance.event_log_storage.set_concurrency_slots(TABLES_POOL, 1)  # the file's limit is for what computes
        elif device_slots is not None:
            instance.event_log_storage.set_concurrency_slots(DEVICE_POOL, device_slots)
        dead = fail_dead_runs(instance)
    return instance, dead


def _configuration(device_slots: int) -> str:
    text = files(__package__).joinpath("dagster.yaml").read_text(encoding="utf-8")
    assert text.count(_RUNS) == 1
    return text.replace(_RUNS, f"max_concurrent_runs: {max(4, device_slots + 1)}")
