"""Small files of a store that change: targets.toml, the plan of a round, what was told to whom."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rkd_pipeline.errors import StoreError
from rkd_pipeline.store.folder_place import FolderPlace
from rkd_pipeline.store.named_locks import FileLocks, NamedLocks
from rkd_pipeline.store.place import Place


@dataclass(frozen=True)
class Document:
    """A document by its name, whether or not it is there; see ``Place``. As text it is where it lies."""

    place: Place = field(repr=False)
    locks: NamedLocks = field(repr=False)
    name: str

    @classmethod
    def at(cls, path: Path) -> "Document":
        """A file that belongs to no store."""
        folder = path.absolute().parent
        return cls(FolderPlace(folder), FileLocks.of(folder), path.name)

    def read(self) -> bytes | None:
        """Its content; None where there is none."""
        return self.place.read(self.name)

    def read_json(self, fix: str) -> Any:
        """Its content as JSON; None where there is none. Raises ``StoreError`` with the fix where it is damaged."""
        content = self.read()
        try:
            return None if content is None else json.loads(content)
        except ValueError as error:
            raise StoreError(f"{self} is damaged ({error}); {fix}") from error

    def write(self, content: bytes) -> None:
        """Write it, whole; whoever does holds a lock. Raises ``Superseded`` where it was changed since it was read."""
        self.place.write(self.name, content)

    def write_json(self, value: Any) -> None:
        """Write it as JSON, for people to read too."""
        self.write(json.dumps(value, indent=1).encode())

    @contextmanager
    def edited(self) -> Iterator[None]:
        """Hold its lock while it is read, changed and written: of two editors at once, neither loses its part."""
        with self.locks.hold(f"document {self.name}"):
            yield

    def exists(self) -> bool:
        """Whether there is one."""
        return self.read() is not None

    def delete(self) -> None:
        """Let it be gone; fine where it is."""
        self.place.delete(self.name)

    def beside(self, suffix: str) -> "Document":
        """The document of the same name with another suffix."""
        return Document(self.place, self.locks, f"{self.name.rpartition('.')[0]}{suffix}")

    def __str__(self) -> str:
        return self.place.shown(self.name)
