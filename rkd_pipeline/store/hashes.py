"""SHA-256 of files, computed once per state of a file: its size, its time of last change, and its inode.

What was computed is kept in a small record. The record is safe to lose: what is not in it is computed again.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from rkd_pipeline.progress import bar
from rkd_pipeline.store.files import file_sha256, read_whole, sync, write_atomically

# A file may change twice within one tick of the clock that stamps it, and look the same; FAT's ticks are the longest.
_TICK = 2_000_000_000
_log = logging.getLogger(__name__)


class State(NamedTuple):
    """What changes when a file is written again: size in bytes, time in nanoseconds, inode."""

    size: int
    mtime_ns: int
    inode: int


def state_of(path: str | Path) -> State | None:
    """The state of a file; None where there is none."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return State(found.st_size, found.st_mtime_ns, found.st_ino)


class HashRecord:
    """The hashes of the files of one folder, by their names in it, kept in ``file``."""

    def __init__(self, file: str | Path) -> None:
        self._file = str(file)
        self._known: dict[str, tuple[State, str]] | None = None

    def of(self, folder: str | Path, states: Mapping[str, State], doing: str = "") -> dict[str, str]:
        """SHA-256 of the named files of ``folder``, 64 hex digits each.

        Args:
            folder: that the names start from.
            states: of the files, as they are now.
            doing: what the progress bar says, by default that the folder is checked; one is shown where there is much
                to read.

        Raises ``OSError`` for a file that cannot be read.
        """
        known = self._read()
        new = [name for name, state in states.items() if name not in known or known[name][0] != state]
        if not new:
            return {name: known[name][1] for name in states}
        now = time.time_ns()
        hashed = self._hash(Path(folder), new, states, doing or f"check {Path(folder).name}")
        self._known = {
            name: (state, hashed[name]) if name in hashed else known[name]
            for name, state in states.items()
            if name not in hashed or now - state.mtime_ns > _TICK
        }
        self._write()
        return {name: hashed[name] if name in hashed else known[name][1] for name in states}

    def note(self, states: Mapping[str, State], hashes: Mapping[str, str]) -> None:
        """Put on record what whoever wrote the files, and synced them to the disk, has computed already."""
        self._known = {name: (state, hashes[name]) for name, state in states.items()}
        self._write()

    def _hash(self, folder: Path, names: Iterable[str], states: Mapping[str, State], doing: str) -> dict[str, str]:
        found = {}
        with bar(sum(states[name].size for name in names), doing, "B", inner=True, delay=1) as progress:
            for name in names:
                # To the disk first: after a power cut, nothing may be on record that only the memory held.
                sync(folder / name)
                found[name] = file_sha256(folder / name)
                progress.update(states[name].size)
        return found

    def _read(self) -> dict[str, tuple[State, str]]:
        if self._known is None:
            try:
                record = json.loads(read_whole(self._file) or b"{}")
                self._known = {name: (State(*state), sha256) for name, (*state, sha256) in record.items()}
            except (OSError, ValueError, TypeError, AttributeError):
                self._known = {}  # lost or damaged: everything is computed again
        return self._known

    def _write(self) -> None:
        record = {name: [*state, sha256] for name, (state, sha256) in (self._known or {}).items()}
        try:
            write_atomically(Path(self._file), json.dumps(record).encode(), durable=False)
        except OSError as error:
            _log.warning("%s cannot be written (%s): its files are hashed again at the next look", self._file, error)
