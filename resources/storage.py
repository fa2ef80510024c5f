"""Folders as Dagster resources: the store, and the data that is read in place or fetched."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from resources import last_words
from resources.code_version import require_expected_code
from resources.fence import LeavingLocks, launched_run
from resources.liveness import process_tags
from rkd_pipeline.data.download.fetch import Fetching, addresses
from rkd_pipeline.settings import Settings
from rkd_pipeline.store.open_store import open_store, require_settings_of_a_shared_store
from rkd_pipeline.store.result_store import Store


class StoreResource(dg.ConfigurableResource):
    """The store. Assets write through it and return metadata, never values."""

    root: str  # a folder, or the address of a bucket; how to get in, and the locks, are in the environment

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Tag the run with the process that works on it, so that a dead one can be told from a busy one.

        Room for its last words is set aside at the same time. A run of a cluster is watched by its launcher instead.
        Raises ``RkdError`` as ``require_settings_of_a_shared_store`` and ``require_expected_code`` do.
        """
        require_settings_of_a_shared_store(Settings(store=self.root), on_a_cluster=launched_run() is not None)
        require_expected_code()
        if launched_run():
            return
        if context.run is not None and context.instance is not None and not context.instance.is_ephemeral:
            context.instance.add_run_tags(context.run.run_id, process_tags(context.run.run_id))
            last_words.set_aside(Path(context.instance.root_directory), context.run.run_id)

    @contextmanager
    def looking(self) -> Iterator[Store]:
        """The store, for what is made of all results: each is looked at once in the block (``Store.one_look``)."""
        store = self.open()
        with store.one_look():
            yield store

    def open(self) -> Store:
        """The store at ``root``. Raises as ``open_store`` does."""
        store = open_store(Settings(store=self.root))
        return Store(store.place, LeavingLocks(store.locks)) if launched_run() else store


class DataResource(dg.ConfigurableResource):
    """The folder that holds the datasets' folders (``RKD_DATA``), and what may be done where one is absent."""

    root: str
    archives: str = ""
    download: bool = False
    mvtec_ad_urls: str = ""
    skip_bad: bool = False

    @classmethod
    def of(cls, settings: Settings) -> "DataResource":
        """As the settings ask for."""
        return cls(
            root=str(settings.data.resolve()),
            archives=str(settings.archives.resolve()) if settings.archives else "",
            download=settings.download,
            mvtec_ad_urls=settings.mvtec_ad_urls,
            skip_bad=settings.skip_bad,
        )

    def folder(self) -> Path:
        """As a path."""
        return Path(self.root)

    def fetching(self, say: Callable[[str], None]) -> Fetching:
        """What may be done to get an absent dataset; ``say`` shows its licence."""
        archives = Path(self.archives) if self.archives else None
        return Fetching(archives, self.download, addresses(self.mvtec_ad_urls), say)
