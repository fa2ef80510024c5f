"""The claim of a run: which of several processes that carry it out may write.

A scheduler that loses sight of a process starts another for the same run, and the first may live on: frozen and
thawed, or left behind by a scheduler that was restarted. So a process that a launcher started takes the run's lock
before it writes its first event, and keeps it until it ends. Whoever gets the lock late finds the run finished. Whoever
has lost it leaves at once, by ``os._exit``: an exception would be written, as a failure, into the run at which the
other one works.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from rkd_pipeline.errors import LockLost
from rkd_pipeline.settings import Settings
from rkd_pipeline.store.background import every
from rkd_pipeline.store.named_locks import NamedLocks, StillHeld
from rkd_pipeline.store.open_store import shared_locks

LAUNCHED = "RKD_LAUNCHED_RUN"  # the run's id, in the environment of the process that a launcher started for it
LOST = 75  # exit status: try again, as sysexits.h has it

_claims: dict[str, "Claim"] = {}


class Claim:
    """The lock of one run, held from now until this process ends; waits for it as long as it takes.

    Args:
        run_id: whose.
        locks: among all machines.
        finished: whether the run has ended meanwhile; then there is nothing to do, and this process ends with 0.
        seconds: how often it is looked whether the lock is held still, besides before every event, and whether the run
            was ended from outside: cancelled, or reported as failed. Then this process is at nobody's work, and ends.
    """

    def __init__(self, run_id: str, locks: NamedLocks, finished: Callable[[], bool], seconds: float) -> None:
        self._run_id, self._finished = run_id, finished
        self._looks_at_the_end = 0
        self._held = ExitStack()
        self._still_held = self._held.enter_context(locks.hold(f"run {run_id}"))
        if finished():
            leave(0, f"run {run_id} has been finished by another process")
        self._held.enter_context(every(seconds, self._look, "claim"))

    def _look(self) -> None:
        self.require()
        with suppress(Exception):  # a database that is away says nothing of the run's end
            self._looks_at_the_end += self._finished()
        # At the first, this process may be the one that has just ended it, and be on its way out.
        if self._looks_at_the_end > 1:
            leave(LOST, f"run {self._run_id} was ended from outside")

    def require(self) -> None:
        """Ends this process where the claim is lost."""
        try:
            self._still_held()
        except LockLost as lost:
            leave(LOST, f"run {self._run_id} is somebody else's now: {lost}")


def launched_run() -> str | None:
    """The run that this process was launched for; None where no launcher of a cluster started it."""
    return os.environ.get(LAUNCHED)


def require_claim(run_id: str, finished: Callable[[], bool]) -> None:
    """Before anything is written of a run: ends a launched process that may not, and does nothing in others."""
    if run_id != launched_run():
        return
    if run_id not in _claims:
        settings = Settings.from_environment()
        _claims[run_id] = Claim(run_id, shared_locks(settings), finished, settings.lock_silence / 4)
    _claims[run_id].require()


def leave(status: int, why: str) -> None:
    """End this process without a word to Dagster."""
    print(f"rkd: {why}", file=sys.stderr, flush=True)
    os._exit(status)


class LeavingLocks:
    """Locks whose loss ends the process, in place of an exception."""

    def __init__(self, locks: NamedLocks) -> None:
        self._locks = locks

    @contextmanager
    def try_hold(self, name: str) -> Iterator[StillHeld | None]:
        """See ``NamedLocks``."""
        with self._locks.try_hold(name) as still_held:
            yield still_held and _leaving(still_held)

    @contextmanager
    def hold(self, name: str) -> Iterator[StillHeld]:
        """See ``NamedLocks``."""
        with self._locks.hold(name) as still_held:
            yield _leaving(still_held)

    def holder(self, name: str) -> str:
        """See ``NamedLocks``."""
        return self._locks.holder(name)

    def at_work(self) -> list[str]:
        """See ``NamedLocks``."""
        return self._locks.at_work()


def _leaving(still_held: StillHeld) -> StillHeld:
    def check() -> None:
        try:
            still_held()
        except LockLost as lost:
            leave(LOST, str(lost))

    return check
