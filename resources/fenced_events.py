"""Dagster's event log in PostgreSQL, into which only the process that holds a run's claim can write of that run."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import psycopg2
from dagster_postgres.event_log import PostgresEventLogStorage
from sqlalchemy.event import listens_for
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import QueuePool

from resources.fence import require_claim


class FencedEventLogStorage(PostgresEventLogStorage):
    """For ``event_log_storage`` in dagster.yaml, configured as the class that it extends; see ``fence.py``."""

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> "FencedEventLogStorage":
        """As Dagster makes it from dagster.yaml."""
        made = PostgresEventLogStorage.from_config_value(inst_data, config_value)
        made.__class__ = cls  # its own method names the class, and reads the configuration by private functions
        assert isinstance(made, FencedEventLogStorage)
        return made

    def store_event(self, event: dg.EventLogEntry) -> None:
        """Store one event; a launched process that lost its claim ends here."""
        self._require_claim(event.run_id)
        super().store_event(event)

    def store_event_batch(self, events: Sequence[dg.EventLogEntry]) -> None:
        """Store several."""
        for run_id in {event.run_id for event in events}:
            self._require_claim(run_id)
        super().store_event_batch(events)

    def _require_claim(self, run_id: str) -> None:
        def finished() -> bool:
            run = self._instance.get_run_by_id(run_id)
            return run is None or run.is_finished

        require_claim(run_id, finished)


@listens_for(QueuePool, "checkout")
def ping(connection: Any, record: object, proxy: object) -> None:
    """Before a kept connection is used: whether the server is still there; else the pool makes another.

    The webserver keeps connections, and Dagster's storages have no setting for this: after a restart of PostgreSQL, the
    first click on each would end in an error.
    """
    if not isinstance(connection, psycopg2.extensions.connection):
        return
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except psycopg2.Error as error:
        raise DisconnectionError from error
