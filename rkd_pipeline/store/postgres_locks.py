"""Locks among the processes of several machines: PostgreSQL's advisory locks.

Each lock has a connection of its own, so that it ends with its holder: the server frees it within milliseconds of a
killed process, and when its TCP keepalives find a machine gone. A machine that is only frozen answers them. So every
holder shows that it is alive by a query from time to time, and whoever waits for a lock whose holder has been silent
for too long has the server end that connection. Of two processes that both believe to hold a lock, the one that lost
it finds out before it commits: it asks (``StillHeld``).

A proxy that hands out connections by the transaction (pgbouncer in that mode) cannot be used.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rkd_pipeline.addresses import database_fault, shown
from rkd_pipeline.errors import LockLost, StoreError
from rkd_pipeline.store.background import every
from rkd_pipeline.store.files import text_sha256
from rkd_pipeline.store.named_locks import StillHeld, this_process

if TYPE_CHECKING:
    from psycopg2.extensions import connection

SETTING = "RKD_LOCKS"
_ASK_SECONDS = 0.25  # how often whoever waits asks again
_KEEPALIVES: dict[str, Any] = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_NAME_LENGTH = 63  # of PostgreSQL's application names; what is longer is cut off there
_log = logging.getLogger(__name__)

_HOLDERS = """
SELECT activity.pid, activity.application_name, EXTRACT(EPOCH FROM clock_timestamp() - activity.state_change)
FROM pg_locks AS locks JOIN pg_stat_activity AS activity USING (pid)
WHERE locks.locktype = 'advisory' AND locks.granted AND locks.database = (
    SELECT oid FROM pg_database WHERE datname = current_database()
)
"""
# An advisory lock of one 64-bit number shows as its two halves.
_OF_ONE = " AND locks.objsubid = 1 AND ((locks.classid::bigint << 32) | locks.objid::bigint) = %s"


class PostgresLocks:
    """Advisory locks in one database; those of two stores do not meet.

    Args:
        address: ``postgresql://user:password@host:port/database``; the password may come from PGPASSWORD or ~/.pgpass.
        store: address of the store whose locks these are.
        silence: seconds without a sign of life after which a holder loses its lock to whoever waits for it.

    Raises ``StoreError`` where the server cannot be reached or refuses.
    """

    def __init__(self, address: str, store: str, *, silence: float = 60.0) -> None:
        if fault := database_fault(address):  # libpq would repeat a part of the password
            raise StoreError(f"{SETTING} {fault}")
        self._address, self._silence = address, silence
        self._store = text_sha256(store)[:8]
        self._connect().close()

    @contextmanager
    def try_hold(self, name: str) -> Iterator[StillHeld | None]:
        """See ``NamedLocks``."""
        with closing(self._connect()) as connection:
            if not self._taken(connection, name):
                yield None
                return
            with self._alive(connection):
                yield lambda: self._check(connection, name)

    @contextmanager
    def hold(self, name: str) -> Iterator[StillHeld]:
        """See ``NamedLocks``."""
        with closing(self._connect()) as connection:
            # Asked for again and again: a query that waits in the server would wait through Ctrl-C too.
            while not self._taken(connection, name):
                self._end_silent(connection, name)
                time.sleep(_ASK_SECONDS)
            with self._alive(connection):
                yield lambda: self._check(connection, name)

    def holder(self, name: str) -> str:
        """See ``NamedLocks``."""
        with closing(self._connect()) as connection:
            found = _ask(connection, _HOLDERS + _OF_ONE, (self._number(name),))
        return self._person(found[0][1]) if found else "another process"

    def at_work(self) -> list[str]:
        """See ``NamedLocks``."""
        with closing(self._connect()) as connection:
            found = _ask(connection, _HOLDERS, ())
        return sorted({self._person(who) for _, who, _ in found if who.startswith(f"rkd {self._store} ")})

    def _connect(self) -> "connection":
        import psycopg2

        who = f"rkd {self._store} {this_process()}"[:_NAME_LENGTH]
        try:
            found = psycopg2.connect(self._address, application_name=who, connect_timeout=10, **_KEEPALIVES)
        except (psycopg2.Error, ValueError) as error:
            # Not the error's own text: it may quote the address, and so its password.
            raise StoreError(
                f"{SETTING}={shown(self._address)}: {_reason(error)}; see that PostgreSQL runs there and lets this "
                "user in (password: PGPASSWORD or ~/.pgpass), or set it to the right address"
            ) from None
        found.autocommit = True
        return found

    def _number(self, name: str) -> int:
        """The lock's name to PostgreSQL: a signed number of 64 bits."""
        return int.from_bytes(bytes.fromhex(text_sha256(f"{self._store} {name}")[:16]), signed=True)

    def _taken(self, connection: "connection", name: str) -> bool:
        return bool(_ask(connection, "SELECT pg_try_advisory_lock(%s)", (self._number(name),))[0][0])

    def _end_silent(self, connection: "connection", name: str) -> None:
        for pid, who, seconds in _ask(connection, _HOLDERS + _OF_ONE, (self._number(name),)):
            if seconds is not None and seconds > self._silence:
                _log.warning("%s has not been heard of for %d s and loses %s", self._person(who), seconds, name)
                _ask(connection, "SELECT pg_terminate_backend(%s)", (pid,))

    @contextmanager
    def _alive(self, connection: "connection") -> Iterator[None]:
        """Let the server hear of this process for as long as the block lasts."""

        def speak() -> None:
            with suppress(Exception):  # what is lost, ``_check`` says
                _ask(connection, "SELECT 1", ())

        with every(self._silence / 4, speak, "lock"):
            yield

    def _check(self, connection: "connection", name: str) -> None:
        try:
            _ask(connection, "SELECT 1", ())
        except StoreError as error:
            raise LockLost(
                f"this process no longer holds {name}: {error}; another process may be at work on it, so nothing more "
                "is written here"
            ) from None

    def _person(self, application: str) -> str:
        return application.removeprefix(f"rkd {self._store} ")


def _ask(connection: "connection", query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    """Raises ``StoreError`` where the connection has ended."""
    import psycopg2

    try:
        with connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall()
    except psycopg2.Error as error:
        raise StoreError(
            f"{SETTING}: the connection to PostgreSQL has ended ({_reason(error)}); see that it runs, and start again"
        ) from None


def _reason(error: Exception) -> str:
    """What the server or the network says, in one line; nothing of a password is in it."""
    import psycopg2

    if isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        return (str(error).splitlines() or ["the connection failed"])[0]
    return "this is no address of a PostgreSQL database, as postgresql://user@host:5432/database"
