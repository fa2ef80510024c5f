"""Locks by name among the processes that share a store; each is free as soon as its holder is gone.

``FileLocks`` serve the processes of one machine; ``postgres_locks.py`` those of several.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from filelock import Timeout

from rkd_pipeline.store.files import text_sha256, write_atomically
from rkd_pipeline.store.locks import locked

StillHeld = Callable[[], None]  # raises ``LockLost`` where somebody else may hold the lock by now


class NamedLocks(Protocol):
    """Locks of the processes that share a store."""

    def try_hold(self, name: str) -> AbstractContextManager[StillHeld | None]:
        """Hold a lock for the block if it is free; gives None where another holds it. Never waits."""

    def hold(self, name: str) -> AbstractContextManager[StillHeld]:
        """Hold a lock for the block; waits for it as long as it takes."""

    def holder(self, name: str) -> str:
        """Who holds a lock, for people."""

    def at_work(self) -> list[str]:
        """Who holds any lock right now, for people; empty where nobody is at work."""


class FileLocks:
    """Locks among the processes of this machine: files in ``folder``, and the kernel's flock on them.

    ``protects`` is the folder that messages name.
    """

    def __init__(self, folder: Path, protects: Path) -> None:
        self._folder, self._protects = folder, protects

    @classmethod
    def of(cls, folder: Path) -> "FileLocks":
        """The locks of a folder, in it."""
        return cls(folder / ".locks", folder)

    @contextmanager
    def try_hold(self, name: str) -> Iterator[StillHeld | None]:
        """See ``NamedLocks``."""
        with ExitStack() as held:
            try:
                held.enter_context(locked(self._file(name), self._protects, timeout=0))
            except Timeout:
                yield None
                return
            yield self._held(name)

    @contextmanager
    def hold(self, name: str) -> Iterator[StillHeld]:
        """See ``NamedLocks``."""
        with locked(self._file(name), self._protects):
            yield self._held(name)

    def holder(self, name: str) -> str:
        """See ``NamedLocks``."""
        return _holder(self._file(name))

    def at_work(self) -> list[str]:
        """See ``NamedLocks``."""
        return sorted({_holder(file) for file in self._folder.glob("*.lock") if not _is_free(file)})

    def _held(self, name: str) -> StillHeld:
        # The holder is written beside the lock, not into it: another process may have the lock file open.
        write_atomically(self._file(name).with_suffix(".holder"), this_process().encode(), durable=False)
        return lambda: None  # the kernel takes no lock away

    def _file(self, name: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{text_sha256(name)[:16]}.lock"


def this_process() -> str:
    """Process and machine, for people."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _holder(lock_file: Path) -> str:
    holder = lock_file.with_suffix(".holder")
    return holder.read_text() if holder.exists() else "another process"


def _is_free(lock_file: Path) -> bool:
    try:
        with locked(lock_file, timeout=0):
            return True
    except Timeout:
        return False
