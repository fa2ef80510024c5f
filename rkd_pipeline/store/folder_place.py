"""A store in a folder of a local file system: an entry is a folder, a document a file, each under its own name.

An entry appears whole (written under a temporary name, then renamed) or not at all. Its files are hashed before they
are believed: once per state of a file, as ``.verified/`` records. That folder is safe to lose.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from rkd_pipeline.store.files import delete, publish, read_whole, sync, write_atomically
from rkd_pipeline.store.hashes import HashRecord, State, state_of
from rkd_pipeline.store.place import PROVENANCE, Files, Record

VERIFIED = ".verified"


class FolderPlace:
    """See the module; methods as in ``Place``."""

    shared = False
    identity = ""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._root = str(self.root)  # thousands of paths are put together from it in one look
        self._hashes: dict[str, HashRecord] = {}

    @property
    def address(self) -> str:
        """The folder's path."""
        return str(self.root)

    def find(self, name: str, record: str = PROVENANCE) -> Record | None:
        """See ``Place``."""
        content = read_whole(f"{self._root}/{name}/{record}")
        return None if content is None else Record(name, content)

    def folder(self, record: Record) -> Path:
        """See ``Place``."""
        return self.root / record.name

    def file(self, record: Record, name: str) -> Path:
        """See ``Place``."""
        return self.root / record.name / name

    def number(self, name: str) -> int:
        """See ``Place``."""
        return 0

    def publish(self, temporary: Path, name: str, files: Files, record: str = PROVENANCE, *, after: int = 0) -> Record:
        """See ``Place``. What was just written need not be hashed again: it is on the disk."""
        folder = self.root / name
        _swap(temporary, folder)
        if record == PROVENANCE:
            states = {file: state_of(folder / file) for file in files}
            known: dict[str, State] = {file: state for file, state in states.items() if state is not None}
            self.hashes(name).note(known, {file: entry["sha256"] for file, entry in files.items()})
        return Record(name, (folder / record).read_bytes())

    def withdraw(self, name: str) -> None:
        """See ``Place``: it is gone under its name before its first file is."""
        folder = self.root / name
        hidden = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.old.tmp")
        os.rename(folder, hidden)
        sync(folder.parent)
        shutil.rmtree(hidden, ignore_errors=True)
        self._hashes.pop(name, None)
        self._hash_file(name).unlink(missing_ok=True)

    def damage(self, record: Record, files: Files) -> str | None:
        """See ``Place``."""
        folder, states = f"{self._root}/{record.name}", {}
        for name, file in files.items():
            state = state_of(f"{folder}/{name}")
            if state is None or state.size != file.get("bytes", state.size):
                return f"{folder}/{name} is missing or cut short"
            states[name] = state
        found = self.hashes(record.name).of(folder, states)
        for name, file in files.items():
            if found[name] != file["sha256"]:
                return (
                    f"{folder}/{name} is damaged: its SHA-256 begins with {found[name][:8]}, and with "
                    f"{file['sha256'][:8]} when it was written"
                )
        return None

    def read_again(self, record: Record, files: Files) -> str | None:
        """See ``Place``; hashes on record are those of other bytes, or of these."""
        self._hashes.pop(record.name, None)
        self._hash_file(record.name).unlink(missing_ok=True)
        return self.damage(record, files)

    def clear(self, under: str) -> None:
        """See ``Place``."""
        delete(self.root / under)

    def entries(self, under: str, record: str = PROVENANCE) -> list[str]:
        """See ``Place``."""
        return sorted(self._entries_below(under, record))

    def _entries_below(self, under: str, record: str) -> Iterator[str]:
        """An entry holds no other: what is in it is not looked at."""
        if os.path.exists(f"{self._root}/{under}/{record}"):
            yield under
            return
        try:
            with os.scandir(f"{self._root}/{under}") as found:
                names = [entry.name for entry in found if entry.is_dir() and not entry.name.startswith(".")]
        except FileNotFoundError:
            return
        for name in names:
            yield from self._entries_below(f"{under}/{name}" if under else name, record)

    def one_look(self) -> nullcontext[None]:
        """See ``Place``; a folder is looked at directly."""
        return nullcontext()

    def read(self, document: str) -> bytes | None:
        """See ``Place``."""
        return read_whole(f"{self._root}/{document}")

    def write(self, document: str, content: bytes) -> None:
        """See ``Place``."""
        write_atomically(self.root / document, content)

    def delete(self, document: str) -> None:
        """See ``Place``."""
        (self.root / document).unlink(missing_ok=True)

    def documents(self, under: str) -> list[str]:
        """See ``Place``."""
        found = (p for p in (self.root / under).rglob("*") if p.is_file() and not p.name.startswith("."))
        return sorted(p.relative_to(self.root).as_posix() for p in found)

    def shown(self, name: str) -> str:
        """See ``Place``."""
        return str(self.root / name)

    def backing_up(self, file: Path) -> nullcontext[None]:
        """See ``Place``; a file of the folder is where it belongs."""
        return nullcontext()

    def back_up(self, file: Path) -> None:
        """See ``Place``; likewise."""

    def restore(self, file: Path) -> None:
        """See ``Place``; likewise."""

    def forget(self, file: Path) -> None:
        """See ``Place``."""
        file.unlink(missing_ok=True)

    def backups(self, under: str) -> list[str]:
        """See ``Place``."""
        return self.documents(under)

    def unused(self) -> dict[str, int]:
        """See ``Place``; a folder holds nothing but what has a name."""
        return {}

    def discard(self, unused: list[str]) -> None:
        """See ``Place``."""

    def hashes(self, name: str) -> HashRecord:
        """The record of hashes of what lies, or is read, under a name."""
        if name not in self._hashes:
            self._hashes[name] = HashRecord(f"{self._root}/{VERIFIED}/{name}.json")
        return self._hashes[name]

    def _hash_file(self, name: str) -> Path:
        return self.root / VERIFIED / f"{name}.json"


def _swap(temporary: Path, folder: Path) -> None:
    """Put ``temporary`` in the place of ``folder``; a reader with open files keeps the old ones."""
    if folder.exists():
        old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.old.tmp")
        os.rename(folder, old)
        publish(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        publish(temporary, folder)
