"""Small file operations that the rest relies on: hashes, and writes that are whole or absent."""

import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from rkd_pipeline.errors import StoreError


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, as 64 hex digits; odd bytes of a file's name count as they are."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def edited(path: Path) -> Iterator[None]:
    """Hold the lock of a file that is read, changed and written back: of two editors at once, neither loses its part.

    The kernel frees it when this process dies. Raises ``StoreError`` where the file system has no such locks.
    """
    lock_file = path.parent / ".locks" / f"{path.name}.lock"
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock_file, fallback_to_soft=False):
            yield
    except NotImplementedError as error:
        raise StoreError(
            f"{path.parent} is on a file system without file locks ({error}); use a store on a local one"
        ) from error


def leftovers(path: Path) -> list[Path]:
    """Files and folders under the temporary names of a file or folder; of a live writer, while there is one."""
    begin = f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}"
    return sorted(p for end in (".tmp", ".old.tmp") for p in path.parent.glob(begin + end))


def delete(path: Path) -> None:
    """Delete a file, or a folder with what is in it; fine where it is gone already."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """What dead writers of this file or folder have left half-made; whoever asks holds the lock of its writers."""
    for leftover in leftovers(path):
        delete(leftover)


def link_or_copy(source: Path, destination: Path) -> None:
    """The same file under a second name, or a copy where the two are on different file systems."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)
