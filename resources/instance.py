"""The Dagster instance of a store: its home, and the runs of dead processes put right."""

import os
from importlib.resources import files
from pathlib import Path

import dagster as dg

from resources.liveness import fail_dead_runs
from rkd_pipeline.store.files import write_atomically
from rkd_pipeline.store.result_store import Store


def open_instance(store: Store, configuration: Path | None = None) -> tuple[dg.DagsterInstance, list[str]]:
    """The instance of a store, and the ids of dead runs that were reported failed.

    Sets ``DAGSTER_HOME`` for this process and its children, so that they all see the same history. It is a folder of
    this machine; ``configuration`` (``RKD_DAGSTER_YAML``) says where runs are recorded and carried out, if not here.
    """
    home = store.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    chosen = configuration or files(__package__).joinpath("dagster.yaml")
    write_atomically(home / "dagster.yaml", chosen.read_bytes())
    os.environ["DAGSTER_HOME"] = str(home)
    with store.machine_lock("dagster instance"):  # two processes must not create its databases at once
        instance = dg.DagsterInstance.get()
        dead = fail_dead_runs(instance)
    return instance, dead
