"""Copies, on this machine, of entries that lie in a bucket: bounded, shared by all processes of the machine, and safe
to lose.

    entries/<name>/<number>/<files>    one version of an entry, or some of its files

Each store has a cache of its own: one that is begun anew at the same address counts its versions from 1 again.

The bound wins: what has not been asked for longest goes first. What was asked for within the last minute stays, so that
whoever has a path has time to open it; what is open or mapped stays readable when its name is gone.
"""

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from rkd_pipeline.errors import NotWhatWasWritten, StoreError

GRACE_SECONDS = 60.0
Fetch = Callable[[Callable[[bytes], object]], None]  # hands every piece of a file to a function
_USED = ".used"  # its time of change says when an entry was asked for last
SETTING = "RKD_CACHE"


class NodeCache:
    """See the module.

    Args:
        folder: of the cache.
        limit: in bytes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._entries, self._limit = folder / "entries", limit
        self._unseen = limit  # bytes that may have come since the cache was last measured

    def folder(self, name: str, number: int) -> Path:
        """Where the copy of a version of an entry lies, there or not; counts as asking for it."""
        found = self._entries / name / f"{number:08d}"
        while True:
            found.mkdir(parents=True, exist_ok=True)
            try:
                (found / _USED).touch()
                return found
            except FileNotFoundError:
                continue  # another process let go of it in between

    def file(self, folder: Path, name: str, size: int, sha256: str, fetch: Fetch) -> Path:
        """A file of an entry's copy, fetched and compared where it is not there yet.

        Raises ``NotWhatWasWritten`` for other bytes, and ``StoreError`` where the disk is full although everything was
        given up that could be.
        """
        file = folder / name
        if file.exists():
            return file
        self._make_room(size)
        try:
            _write(file, size, sha256, fetch)
        except FileNotFoundError:  # it took longer than the minute, and another process let go of the folder
            _write(file, size, sha256, fetch)
            (folder / _USED).touch()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._shrink(0)
            try:
                _write(file, size, sha256, fetch)
            except OSError as again:
                raise StoreError(
                    f"the disk of {self._entries.parent} is full ({again}), and nothing of the cache there can go; "
                    f"make room, or name another folder with {SETTING}"
                ) from again
        return file

    def adopt(self, temporary: Path, name: str, number: int) -> Path:
        """Take a folder that this process has just published as the copy of it."""
        size = sum(p.stat().st_size for p in temporary.rglob("*") if p.is_file())
        self._make_room(size)
        final = self._entries / name / f"{number:08d}"
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(temporary, final)
        return self.folder(name, number)

    def forget(self, name: str) -> None:
        """Let go of every version of an entry."""
        shutil.rmtree(self._entries / name, ignore_errors=True)

    def _make_room(self, size: int) -> None:
        """Keep the bound, measuring only when a twentieth of it may have come since the last time."""
        self._unseen += size
        if self._unseen > self._limit / 20:
            self._shrink(self._limit - size)
            self._unseen = 0

    def _shrink(self, limit: int) -> None:
        copies = sorted(self._copies(), key=lambda copy: copy[1])
        total = sum(size for *_, size in copies)
        for folder, used, size in copies:
            if total <= limit or time.time() - used < GRACE_SECONDS:
                return
            gone = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
            with suppress(FileNotFoundError):  # another process makes room too
                os.rename(folder, gone)
            shutil.rmtree(gone, ignore_errors=True)
            total -= size

    def _copies(self) -> Iterator[tuple[Path, float, int]]:
        """Every copy: its folder, when it was asked for last, and its bytes."""
        for marker in self._entries.rglob(_USED):
            try:
                used = marker.stat().st_mtime
                size = sum(p.stat().st_size for p in marker.parent.rglob("*") if p.is_file())
            except FileNotFoundError:
                continue  # another process has let go of it
            yield marker.parent, used, size


class _Hashing:
    """A file that hashes what is written into it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.sha256, self.size = stream, hashlib.sha256(), 0

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        self.size += len(content)
        return self._stream.write(content)


def _write(file: Path, size: int, sha256: str, fetch: Fetch) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("xb") as stream:
            hashing = _Hashing(stream)
            fetch(hashing.write)
        if (hashing.size, hashing.sha256.hexdigest()) != (size, sha256):
            raise NotWhatWasWritten(
                f"{file.name} came with {hashing.size} bytes and SHA-256 {hashing.sha256.hexdigest()[:8]}…, and was "
                f"written with {size} and {sha256[:8]}…"
            )
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
