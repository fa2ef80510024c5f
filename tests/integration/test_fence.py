"""Which of two processes of one run may write, with PostgreSQL's locks: the one that lost its claim leaves at once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.pool import QueuePool

from resources.fence import LOST
from resources.fenced_events import ping
from tests.integration.servers import wait_until
from tests.library.postgres_server import PostgresServer, serving

SILENCE = 1.0
# What a launched process does, in small: it writes an event every 50 ms, each after its claim was looked at.
WORKER = """
import sys, time
from pathlib import Path
from resources.fence import require_claim

events, finished = Path(sys.argv[1]), Path(sys.argv[2])
while True:
    require_claim("the-run", finished.exists)
    with events.open("a") as log:
        log.write(f"{sys.argv[3]}\\n")
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def server(postgres_programs: Path) -> Iterator[PostgresServer]:
    with serving(postgres_programs) as running:
        yield running


class Workers:
    """Processes launched for one run, and what they have written of it."""

    def __init__(self, folder: Path, locks: str) -> None:
        self.events, self.finished = folder / "events", folder / "finished"
        self._environment = {"RKD_STORE": f"file://{folder}", "RKD_LOCKS": locks, "RKD_LOCK_SILENCE": str(SILENCE)}

    def start(self, name: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, str(self.events), str(self.finished), name],
            env=os.environ | self._environment | {"RKD_LAUNCHED_RUN": "the-run"},
            stderr=subprocess.PIPE,
            text=True,
        )

    def written_by(self, name: str) -> int:
        return self.events.read_text().split().count(name) if self.events.exists() else 0


@pytest.fixture
def workers(server: PostgresServer, tmp_path: Path) -> Workers:
    return Workers(tmp_path, server.address)


def test_the_second_waits_and_goes_on_where_the_first_was_killed(workers: Workers) -> None:
    first = workers.start("first")
    wait_until(lambda: workers.written_by("first"), "the first to write")
    second = workers.start("second")
    time.sleep(2 * SILENCE)
    assert not workers.written_by("second")
    first.kill()
    wait_until(lambda: workers.written_by("second"), "the second to go on")
    second.kill()
    first.communicate()
    second.communicate()


def test_a_frozen_one_that_comes_back_ends_without_a_word(workers: Workers) -> None:
    first = workers.start("first")
    wait_until(lambda: workers.written_by("first"), "the first to write")
    first.send_signal(signal.SIGSTOP)
    second = workers.start("second")
    wait_until(lambda: workers.written_by("second"), "the second to take over")
    before = workers.written_by("first")
    first.send_signal(signal.SIGCONT)
    _, said = first.communicate(timeout=30)
    assert first.returncode == LOST
    assert "run the-run is somebody else's now" in said
    assert workers.written_by("first") == before
    assert second.poll() is None
    second.kill()
    second.communicate()


def test_the_second_ends_in_peace_where_the_run_is_finished(workers: Workers) -> None:
    first = workers.start("first")
    wait_until(lambda: workers.written_by("first"), "the first to write")
    second = workers.start("second")
    workers.finished.touch()
    first.kill()
    _, said = second.communicate(timeout=30)
    assert second.returncode == 0
    assert "has been finished by another process" in said
    assert not workers.written_by("second")
    first.communicate()


def test_one_whose_run_was_ended_from_outside_ends_too(workers: Workers) -> None:
    """Cancelled, or reported as failed while nobody saw it: it would go on computing for nobody."""
    first = workers.start("first")
    wait_until(lambda: workers.written_by("first"), "the first to write")
    workers.finished.touch()
    _, said = first.communicate(timeout=30)
    assert first.returncode == LOST
    assert "run the-run was ended from outside" in said


def test_a_kept_connection_is_tried_before_it_is_used(server: PostgresServer) -> None:
    """As the webserver's are, whose first click after a restart of the database ended in an error."""
    address = server.address.replace("postgresql://", "postgresql+psycopg2://")
    assert event.contains(QueuePool, "checkout", ping)
    engine = create_engine(address, isolation_level="AUTOCOMMIT", pool_size=1)
    with engine.connect() as connection:
        before = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    server.stop()
    server.start()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() != before
    engine.dispose()
