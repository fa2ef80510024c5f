"""Folders as Dagster resources: the store, and the data that is read in place."""

from pathlib import Path

import dagster as dg

from resources.liveness import process_tags
from rkd_pipeline.store import Store


class StoreResource(dg.ConfigurableResource):
    """The store. Assets write through it and return metadata, never values."""

    root: str

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Tag the run with the process that works on it, so that a dead one can be told from a busy one."""
        if context.run is not None and context.instance is not None and not context.instance.is_ephemeral:
            context.instance.add_run_tags(context.run.run_id, process_tags())

    def open(self) -> Store:
        """The store at ``root``."""
        return Store(Path(self.root))


class DataResource(dg.ConfigurableResource):
    """The folder that holds the datasets' folders (``RKD_DATA``); only read."""

    root: str

    def folder(self) -> Path:
        """As a path."""
        return Path(self.root)
