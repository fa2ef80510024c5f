"""Small file operations that the rest relies on: hashes, and writes that are whole or absent, after a power cut too."""

import errno
import glob
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

from rkd_pipeline.progress import bar
from rkd_pipeline.store.locks import locked

_log = logging.getLogger(__name__)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_whole(path: str) -> bytes | None:
    """A file's bytes; None where there is none. In a third of pathlib's time, for the thousands that a look reads."""
    try:
        with open(path, "rb", buffering=0) as stream:
            return stream.readall()
    except FileNotFoundError:
        return None


def bytes_sha256(content: bytes) -> str:
    """SHA-256 of bytes, as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def text_sha256(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, as 64 hex digits; odd bytes of a file's name count as they are."""
    return bytes_sha256(text.encode(errors="surrogateescape"))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk: what is not can be gone after a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
        _log.warning("%s: this file system cannot sync folders; a power cut may undo the last changes there", path)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Wait until everything in a folder is on the disk: its files, then its folders from the deepest up."""
    places = list(os.walk(folder, topdown=False))
    with bar(sum(len(names) for *_, names in places), f"sync {folder.name}", "file", inner=True, delay=1) as progress:
        for place, _, names in places:
            for name in names:
                sync(Path(place, name))
                progress.update()
            sync(Path(place))


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are missing; their names are on the disk afterwards."""
    missing = list(takewhile(lambda p: not p.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        sync(made.parent)


def publish(temporary: Path, final: Path) -> None:
    """Give a finished file or folder its final name, so that a power cut leaves it whole or absent under that name.

    Everything is on the disk before the name is, and the name when this returns. Both lie in one folder; ``final`` is
    absent, or a file in the place of a file.
    """
    if temporary.is_dir():
        sync_tree(temporary)
    else:
        sync(temporary)
    os.replace(temporary, final)
    sync(final.parent)


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file so that a reader, a crash or a power cut sees the old content or the new, never a part.

    It is on the disk when this returns; unless it is not ``durable``, for a file that is safe to lose.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
        if durable:
            publish(temporary, path)
        else:
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def keep(file: Path, make: Callable[[Path], None]) -> Path:
    """A file that is costly to make and used by many: made by ``make`` where it is missing or damaged.

    Its SHA-256 stands beside it (``.sha256``); of a file without one it is taken as the file is. The bytes are hashed
    at every call. ``make`` gets the path to write to.
    """
    make_folder(file.parent)
    stated = file.with_suffix(".sha256")
    with locked(file.with_suffix(".lock")):
        if file.exists():
            found = file_sha256(file)
            if not stated.exists():
                write_atomically(stated, found.encode())
            if found == stated.read_text(encoding="ascii", errors="replace"):
                return file
            _log.warning("%s is damaged: its SHA-256 is not the one in %s; it is made again", file, stated)
        remove_leftovers(file)
        temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            make(temporary)
            write_atomically(stated, file_sha256(temporary).encode())
            publish(temporary, file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return file


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
