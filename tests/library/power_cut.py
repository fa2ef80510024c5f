"""Power cuts, simulated: which trees of files a disk may hold when the power goes, by what POSIX promises.

Only what was synced is safe. Of a file that was not, the bytes may be there, be zeros of the same length, or be those
of the last sync. Of a folder that was not, the names may be those of now or of its last sync, whatever other folders
hold. The operations run on real files; calls of ``os`` that change names, and ``fsync``, are recorded, and every moment
before such a call is one at which the power may go. After ALICE (Pillai et al., OSDI 2014).
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from rkd_pipeline.store.hashes import State, state_of

NAMING = ("rename", "replace", "link", "unlink", "remove", "rmdir", "mkdir")


@dataclass
class Disk:
    """Folders (inode to names and inodes) and files (inode to bytes) of a tree; ``times`` are of the files."""

    folders: dict[int, dict[str, int]] = field(default_factory=dict)
    files: dict[int, bytes] = field(default_factory=dict)
    times: dict[int, int] = field(default_factory=dict)

    def copy(self) -> "Disk":
        return Disk({k: dict(v) for k, v in self.folders.items()}, dict(self.files), dict(self.times))


class PowerCuts:
    """Records what happens to a folder. What is in it at the start is on the disk."""

    def __init__(self, root: Path) -> None:
        self._root, self._inode = root, root.stat().st_ino
        self._held: dict[int, int] = {}  # an open file keeps its inode from being given to another
        self._fsync = os.fsync
        self._safe = self._now()
        self._moments: list[tuple[bool, Disk, Disk]] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Record what the block does."""
        with mock.patch.multiple(os, fsync=self._sync, **{name: self._before(getattr(os, name)) for name in NAMING}):
            yield
        self._moment(finished=True)

    def crashes(self, into: Path) -> Iterator[tuple[Path, bool]]:
        """Every tree that may be found after the power has gone, as a folder, and whether the block had ended.

        While one is looked at, its files have the inodes and times that the originals had, so that a record of them
        is put to the test; and nothing is synced.
        """
        seen = set()
        for finished, now, safe in self._moments:
            for found in _possible(now, safe, self._inode):
                # What lies in .locks says nothing once its process is dead.
                what = ((k, v[0], v[1]) for k, v in found.items() if not k.startswith(".locks"))
                identity = (finished, tuple(sorted(what)))
                if identity in seen:
                    continue
                seen.add(identity)
                folder = into / f"{len(seen):04d}"
                states = _write(found, folder)
                with (
                    mock.patch("rkd_pipeline.store.hashes.state_of", _as_before(states)),
                    mock.patch("rkd_pipeline.store.folder_place.state_of", _as_before(states)),
                    mock.patch.object(os, "fsync"),
                ):
                    yield folder, finished
        for handle in self._held.values():
            os.close(handle)

    def _before(self, call: Any) -> Any:
        def recorded(*args: Any, **named: Any) -> Any:
            self._moment()
            return call(*args, **named)

        return recorded

    def _sync(self, handle: int) -> None:
        self._moment()
        self._fsync(handle)
        now, inode = self._now(), os.fstat(handle).st_ino
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            self._safe.folders[inode] = now.folders.get(inode, {})
        else:
            self._safe.files[inode] = now.files.get(inode, b"")

    def _moment(self, finished: bool = False) -> None:
        self._moments.append((finished, self._now(), self._safe.copy()))

    def _now(self) -> Disk:
        found = Disk()
        for place, folders, files in os.walk(self._root):
            names = found.folders[os.stat(place).st_ino] = {}
            for name in (*folders, *files):
                path = os.path.join(place, name)
                inode = names[name] = os.stat(path).st_ino
                if inode not in self._held:
                    self._held[inode] = os.open(path, os.O_RDONLY)
                if name in files:
                    found.files[inode], found.times[inode] = Path(path).read_bytes(), os.stat(path).st_mtime_ns
        return found


# Path in the tree to kind ("d" or "f"), bytes, and state (inode and time).
_Tree = dict[str, tuple[str, bytes, tuple[int, int]]]


def _possible(now: Disk, safe: Disk, root: int) -> Iterator[_Tree]:
    changed = {inode for inode in now.folders if now.folders[inode] != safe.folders.get(inode)}
    losses = [set[int](), changed, *({one} for one in changed), *(changed - {one} for one in changed)]
    for lost in losses:
        for fate in ("kept", "zeros", "as synced"):
            yield _tree(now, safe, root, lost, fate)


def _tree(now: Disk, safe: Disk, root: int, lost: set[int], fate: str) -> _Tree:
    found: _Tree = {}

    def content(inode: int) -> bytes:
        synced, written = safe.files.get(inode), now.files.get(inode)
        if written is None or written == synced or fate == "as synced":
            return synced or b""
        return written if fate == "kept" else bytes(len(written))

    def walk(inode: int, path: str) -> None:
        names = safe.folders.get(inode, {}) if inode in lost or inode not in now.folders else now.folders[inode]
        for name, inner in names.items():
            where = f"{path}{name}"
            if inner in now.folders or inner in safe.folders:
                found[where] = ("d", b"", (inner, 0))
                walk(inner, f"{where}/")
            else:
                found[where] = ("f", content(inner), (inner, now.times.get(inner, safe.times.get(inner, 0))))

    walk(root, "")
    return found


def _write(tree: _Tree, folder: Path) -> dict[str, State]:
    folder.mkdir(parents=True)
    states = {}
    for name, (kind, content, (inode, time)) in sorted(tree.items()):
        if kind == "d":
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
            states[str(folder / name)] = State(len(content), time, inode)
    return states


def _as_before(states: dict[str, State]) -> Any:
    written = {path: state_of(path) for path in states}

    def state(path: str | Path) -> State | None:
        real = state_of(path)
        return states[str(path)] if str(path) in states and real == written[str(path)] else real

    return state
