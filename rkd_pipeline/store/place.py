"""Where a store keeps what processes share: the interface of a folder (``folder_place.py``) and of a bucket
(``bucket_place.py``).

Two kinds of things lie there. An *entry* is a folder of files that is written whole, under a name like
``metrics/brain_mri/rkd-s0``; one of its files is its record, which is read before anything else is. A *document* is a
small file that changes, like ``targets.toml``. Whoever writes either holds its lock.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

PROVENANCE = "provenance.json"  # the record of a result
Files = Mapping[str, dict[str, Any]]  # file name to ``sha256`` and, where it is known, ``bytes``


@dataclass(frozen=True)
class Record:
    """The record of an entry, as it was last published.

    Attributes:
        name: of the entry.
        content: of the record's file.
        number: how often the entry had been published, from 1; 0 in a folder, which does not count.
        files: of the entry; empty in a folder, where they are seen.
    """

    name: str
    content: bytes
    number: int = 0
    files: Files = field(default_factory=dict, compare=False)


class Place(Protocol):
    """See the module. Names are relative POSIX paths; every method raises ``StoreError`` where the place fails."""

    @property
    def address(self) -> str:
        """Of the place, for people."""

    @property
    def root(self) -> Path:
        """The folder on this machine for what no other machine needs; of a folder, the place itself."""

    @property
    def identity(self) -> str:
        """Which store lies there, drawn by whoever began it: two at one address differ. Empty where nobody did."""

    @property
    def shared(self) -> bool:
        """Whether other machines use it, which need not have this one's files."""

    def find(self, name: str, record: str = PROVENANCE) -> Record | None:
        """The record of an entry, of the file ``record``; None where there is no such entry."""

    def folder(self, record: Record) -> Path:
        """An entry's files in a folder of this machine, which is only read. Ask again before each use: it is cheap,
        and a cache may let go of what nobody has asked for during a minute. What is open or mapped stays readable.
        """

    def file(self, record: Record, name: str) -> Path:
        """One of an entry's files, likewise; the others need not come with it."""

    def number(self, name: str) -> int:
        """How often an entry has been published or withdrawn; 0 in a folder, which does not count."""

    def publish(self, temporary: Path, name: str, files: Files, record: str = PROVENANCE, *, after: int = 0) -> Record:
        """Make a finished folder the entry of that name, in the place of what it was; ``temporary`` is gone then.

        ``after`` is its number when the work began. Raises ``Superseded`` where another process has published it since:
        one that lost its lock without noticing commits nothing.
        """

    def withdraw(self, name: str) -> None:
        """Let an entry be gone."""

    def damage(self, record: Record, files: Files) -> str | None:
        """Which file is missing, cut short or not what it was; None where none is known to be."""

    def read_again(self, record: Record, files: Files) -> str | None:
        """As ``damage``, after reading every byte where it lies."""

    def clear(self, under: str) -> None:
        """Let everything below a name be gone: entries, documents and backups."""

    def entries(self, under: str, record: str = PROVENANCE) -> list[str]:
        """Names of the entries below a name, sorted."""

    def one_look(self) -> AbstractContextManager[None]:
        """Inside the block, entries are listed once; what other processes publish meanwhile may not be seen."""

    def read(self, document: str) -> bytes | None:
        """A document; None where there is none."""

    def write(self, document: str, content: bytes) -> None:
        """Write a document: whole, and on the disk when this returns.

        Raises ``Superseded`` where another process has written it since this one read it.
        """

    def delete(self, document: str) -> None:
        """Let a document be gone; fine where it is."""

    def documents(self, under: str) -> list[str]:
        """Names of the documents below a name, sorted."""

    def shown(self, name: str) -> str:
        """Where an entry or a document lies, for messages."""

    def backing_up(self, file: Path) -> AbstractContextManager[None]:
        """Inside the block, a file below ``root`` that this process writes again and again is kept safe for others."""

    def back_up(self, file: Path) -> None:
        """Keep such a file safe for others as it is now."""

    def restore(self, file: Path) -> None:
        """Bring such a file here where another machine has gone further with it than this one."""

    def forget(self, file: Path) -> None:
        """Delete such a file here and wherever it was kept; fine where there is none."""

    def backups(self, under: str) -> list[str]:
        """Names of such files below a name, here or kept elsewhere, sorted."""

    def unused(self) -> dict[str, int]:
        """What of the place's own storage nothing refers to, with its bytes; names that ``discard`` takes."""

    def discard(self, unused: list[str]) -> None:
        """Delete it."""
