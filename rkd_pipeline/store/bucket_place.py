"""A store that several machines share: in an object store (S3 and what speaks it, Google's, Azure's), or in a folder
that all of them have mounted, which serves as one (``file:///mnt/shared/rkd``).

    store.json                              layout of the store, and which store it is; written once
    records/<entry>/<8 digits>.json         an entry: its record and its files' hashes; the highest number counts, and
                                            an empty one says that the entry is gone
    blobs/<2 digits>/<SHA-256>              content of a file, written once
    documents/<document>/<8 digits>         a document; the highest number counts, an empty one says that it is gone
    backups/<file>                          a file that is written again and again: the last writer wins

Nothing is ever changed, so nothing that is read is half old and half new. What commits is the creation of the next
number, on the one condition that every server tried honours: that no object of this name exists (``If-None-Match: *``).
A server that ignores it is refused. An upload is compared by size, since some servers keep one that was cut; what is
downloaded, by its hash.
"""

import hashlib
import json
import logging
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from rkd_pipeline.addresses import shown
from rkd_pipeline.errors import DamagedRecord, NotWhatWasWritten, StoreError, Superseded
from rkd_pipeline.store.background import every
from rkd_pipeline.store.files import bytes_sha256, delete, write_atomically
from rkd_pipeline.store.node_cache import NodeCache
from rkd_pipeline.store.place import PROVENANCE, Files, Record

if TYPE_CHECKING:
    from obstore.store import ObjectStore

LAYOUT = 1
_STORE, _RECORDS, _BLOBS, _DOCUMENTS, _BACKUPS = "store.json", "records", "blobs", "documents", "backups"
# A blob that nobody refers to is deleted a day after it was written; one that is half as old is written again rather
# than referred to, so that it cannot be deleted in between.
UNUSED_FOR = timedelta(days=1)
# Of a request that failed; ten to thirty seconds in all, about as long as a server takes to be restarted.
RETRIES = 8
_BACKOFF = {"init_backoff": timedelta(seconds=0.5), "max_backoff": timedelta(seconds=5), "base": 3}
_PLAIN = re.compile(r"[A-Za-z0-9_.-]")
# While a bucket is looked at once, in this thread: entry to its highest number, and whether it is there.
_Seen = dict[str, tuple[int, bool]]
_look: ContextVar[tuple[object, _Seen] | None] = ContextVar("look", default=None)
_log = logging.getLogger(__name__)


class BucketPlace:
    """See the module; methods as in ``Place``.

    Args:
        objects: the bucket, or a part of it.
        address: of it, for people.
        root: folder of this machine for what other machines do not need, and for copies of what they do.
        cache_bytes: bound of those copies.
        backup_seconds: how often a file that is written again and again is uploaded.

    Raises ``StoreError`` where the bucket cannot be used.
    """

    shared = True

    def __init__(
        self,
        objects: "ObjectStore",
        address: str,
        root: Path,
        *,
        cache_bytes: int = 50 * 2**30,
        backup_seconds: float = 300.0,
    ) -> None:
        self._objects, self._address, self.root = objects, address, root.resolve()
        self._backup_seconds = backup_seconds
        self._read: dict[str, int] = {}  # document to the number that this process has read or written last
        self._looked_at: dict[str, str | None] = {}  # blob to what is wrong with it
        self.identity = self._open()
        # Of this very store: one that is begun anew at the same address counts its entries from 1 again.
        self._cache = self.root / "cache" / self.identity
        self._copies = NodeCache(self._cache, cache_bytes)

    @property
    def address(self) -> str:
        """The bucket's address, without what gives access to it."""
        return shown(self._address) if "@" in self._address else self._address

    # Entries

    def find(self, name: str, record: str = PROVENANCE) -> Record | None:
        """See ``Place``. A record never changes, so that each is read from the bucket once."""
        number, there = self._newest_entry(name)
        if not there:
            return None
        path = f"{_RECORDS}/{_quoted(name)}/{number:08d}.json"
        kept = self._cache / "records" / f"{_quoted(name)}/{number:08d}.json"
        try:
            content = json.loads(kept.read_bytes())
        except (OSError, ValueError):
            fetched = self._get(path)
            try:
                content = json.loads(fetched)
            except ValueError:
                raise DamagedRecord(
                    f"{self.shown(path)} is damaged in the bucket ({len(fetched)} bytes that are no JSON); "
                    "`rkd store verify --mend` lets such entries be made again"
                ) from None
            write_atomically(kept, fetched, durable=False)
        if content["file"] != record:
            return None
        for file in content["files"]:
            _refuse_outside(file, self.shown(name))
        return Record(name, content["record"].encode(), number, content["files"])

    def folder(self, record: Record) -> Path:
        """See ``Place``; fetched where it is not here yet."""
        folder = self._copies.folder(_quoted(record.name), record.number)
        for name in record.files:
            self._file(record, name, folder)
        return folder

    def file(self, record: Record, name: str) -> Path:
        """See ``Place``; fetched where it is not here yet."""
        return self._file(record, name, self._copies.folder(_quoted(record.name), record.number))

    def _file(self, record: Record, name: str, folder: Path) -> Path:
        file = record.files[name]

        def fetch(write: Callable[[bytes], object]) -> None:
            with self._talking(f"fetch {record.name}/{name}"):
                try:
                    chunks = _obstore().get(self._objects, _blob(file["sha256"]))
                except FileNotFoundError:
                    raise StoreError(
                        f"{self.shown(record.name)}/{name} is gone from the bucket ({_blob(file['sha256'])}); "
                        "`rkd store verify --mend` lets such entries be made again"
                    ) from None
                for chunk in chunks:
                    write(chunk)

        try:
            return self._copies.file(folder, name, file["bytes"], file["sha256"], fetch)
        except NotWhatWasWritten as error:
            raise StoreError(
                f"{self.shown(record.name)}/{name} is damaged in the bucket: {error}; "
                "`rkd store verify --mend` lets such entries be made again"
            ) from error

    def number(self, name: str) -> int:
        """See ``Place``; asked anew within a look too, which goes on with what is found."""
        number, there = self._newest_entry(name, fresh=True)
        self._note(name, number, there)
        return number

    def publish(self, temporary: Path, name: str, files: Files, record: str = PROVENANCE, *, after: int = 0) -> Record:
        """See ``Place``: files first, their record last."""
        content = (temporary / record).read_bytes()
        own = {record: {"sha256": bytes_sha256(content), "bytes": len(content)}}
        listed = {file: {"sha256": f["sha256"], "bytes": f["bytes"]} for file, f in ({**files, **own}).items()}
        for file, entry in listed.items():
            self._upload(temporary / file, entry["sha256"], entry["bytes"])
        number = after + 1
        body = json.dumps({"file": record, "record": content.decode(), "files": listed}).encode()
        self._create(f"{_RECORDS}/{_quoted(name)}/{number:08d}.json", body)
        self._note(name, number, True)
        self._copies.adopt(temporary, _quoted(name), number)
        return Record(name, content, number, listed)

    def withdraw(self, name: str) -> None:
        """See ``Place``; its files go with the next ``rkd prune``."""
        number = self.number(name) + 1
        self._create(f"{_RECORDS}/{_quoted(name)}/{number:08d}.json", b"")
        self._note(name, number, False)
        self._copies.forget(_quoted(name))

    def damage(self, record: Record, files: Files) -> str | None:
        """See ``Place``: sizes were compared when they were written, and hashes are when they are fetched."""
        return None

    def clear(self, under: str) -> None:
        """See ``Place``."""
        for name in self.entries(under):
            self.withdraw(name)
        for document in self.documents(under):
            self.delete(document)
        for backup in self.backups(under):
            self.forget(self.root / backup)
        delete(self.root / under)

    def entries(self, under: str, record: str = PROVENANCE) -> list[str]:
        """See ``Place``: one request, whatever the number of entries."""
        seen = self._seen()
        if seen is not None:
            begin = f"{under}/"
            return sorted(n for n, (_, there) in seen.items() if there and (n == under or n.startswith(begin)))
        return sorted(name for name, (_, there) in self._listed(_RECORDS, under).items() if there)

    @contextmanager
    def one_look(self) -> Iterator[None]:
        """See ``Place``."""
        if self._seen() is not None:
            yield
            return
        before = _look.set((self, self._listed(_RECORDS)))
        try:
            yield
        finally:
            _look.reset(before)

    def _seen(self) -> _Seen | None:
        found = _look.get()
        return found[1] if found is not None and found[0] is self else None

    def _newest_entry(self, name: str, *, fresh: bool = False) -> tuple[int, bool]:
        """Highest number of an entry, 0 where there is none, and whether it says that the entry is there."""
        seen = self._seen()
        if seen is not None and not fresh:
            return seen.get(name, (0, False))
        return self._newest(f"{_RECORDS}/{_quoted(name)}")

    def _note(self, name: str, number: int, there: bool) -> None:
        if (seen := self._seen()) is not None:
            seen[name] = (number, there)

    def _listed(self, kind: str, under: str = "") -> _Seen:
        """Every entry, or every document, below a name: its highest number, and whether that says that it is there."""
        newest: _Seen = {}
        for path, size in self._list(f"{kind}/{_quoted(under)}".rstrip("/")):
            name = _unquoted(path.removeprefix(f"{kind}/").rpartition("/")[0])
            newest[name] = max(newest.get(name, (0, False)), (_number(path), size > 0))
        return newest

    # Documents

    def read(self, document: str) -> bytes | None:
        """See ``Place``."""
        number, there = self._newest(f"{_DOCUMENTS}/{_quoted(document)}")
        self._read[document] = number
        return self._get(f"{_DOCUMENTS}/{_quoted(document)}/{number:08d}") if there else None

    def write(self, document: str, content: bytes) -> None:
        """See ``Place``."""
        after = self._read.get(document)
        if after is None:
            after, _ = self._newest(f"{_DOCUMENTS}/{_quoted(document)}")
        self._create(f"{_DOCUMENTS}/{_quoted(document)}/{after + 1:08d}", content)
        self._read[document] = after + 1

    def delete(self, document: str) -> None:
        """See ``Place``."""
        number, there = self._newest(f"{_DOCUMENTS}/{_quoted(document)}")
        self._read[document] = number
        if there:
            self.write(document, b"")

    def documents(self, under: str) -> list[str]:
        """See ``Place``."""
        return sorted(name for name, (_, there) in self._listed(_DOCUMENTS, under).items() if there)

    def shown(self, name: str) -> str:
        """See ``Place``."""
        return f"{self.address.rstrip('/')}/{name}"

    # Files that are written again and again

    @contextmanager
    def backing_up(self, file: Path) -> Iterator[None]:
        """See ``Place``: uploaded by a thread of its own, so that nobody waits for it."""
        written = 0

        def upload() -> None:
            nonlocal written
            try:
                now = file.stat().st_mtime_ns
                if now != written:
                    self.back_up(file)
                    written = now
            except FileNotFoundError:
                pass  # not yet written for the first time
            except StoreError as error:
                _log.warning("%s was not backed up: %s", file.name, error)

        with every(self._backup_seconds, upload, "backup"):
            yield

    def back_up(self, file: Path) -> None:
        """See ``Place``."""
        with self._talking(f"back {file.name} up"):
            put = _obstore().put(self._objects, self._backup(file), file)
        write_atomically(_tag_file(file), str(put["e_tag"]).encode(), durable=False)

    def restore(self, file: Path) -> None:
        """See ``Place``: what this machine has not uploaded itself, another has written since."""
        with self._talking(f"look for {file.name}"):
            try:
                found = _obstore().head(self._objects, self._backup(file))
            except FileNotFoundError:
                return
        tag = _tag_file(file)
        if file.exists() and tag.exists() and tag.read_text() == str(found["e_tag"]):
            return
        write_atomically(file, self._get(self._backup(file)))
        write_atomically(tag, str(found["e_tag"]).encode(), durable=False)

    def forget(self, file: Path) -> None:
        """See ``Place``."""
        file.unlink(missing_ok=True)
        _tag_file(file).unlink(missing_ok=True)
        with self._talking(f"delete the backup of {file.name}"), suppress(FileNotFoundError):
            _obstore().delete(self._objects, self._backup(file))

    def backups(self, under: str) -> list[str]:
        """See ``Place``."""
        kept = {_unquoted(path.removeprefix(f"{_BACKUPS}/")) for path, _ in self._list(f"{_BACKUPS}/{_quoted(under)}")}
        here = (p for p in (self.root / under).rglob("*") if p.is_file() and not p.name.startswith("."))
        return sorted(kept | {p.relative_to(self.root).as_posix() for p in here})

    def _backup(self, file: Path) -> str:
        return f"{_BACKUPS}/{_quoted(file.relative_to(self.root).as_posix())}"

    # Looking after it

    def blobs(self) -> dict[str, tuple[int, datetime]]:
        """Every blob by its SHA-256: its bytes, and when it was written."""
        with self._talking("list the blobs"):
            return {
                str(found["path"]).rpartition("/")[2]: (int(found["size"]), found["last_modified"])
                for page in _obstore().list(self._objects, _BLOBS)
                for found in page
            }

    def unused(self) -> dict[str, int]:
        """See ``Place``: blobs that are a day old, and what has been replaced."""
        numbered = {path: size for kind in (_RECORDS, _DOCUMENTS) for path, size in self._list(kind)}
        newest = {path.rpartition("/")[0]: path for path in sorted(numbered)}  # of equal length, so in order
        records = [path for path in newest.values() if path.startswith(f"{_RECORDS}/") and numbered[path]]
        used = {file["sha256"] for path in records for file in self._files_in(path).values()}
        before = datetime.now(UTC) - UNUSED_FOR
        blobs = {_blob(h): size for h, (size, at) in self.blobs().items() if h not in used and at < before}
        kept = set(newest.values())
        replaced = {path: size for path, size in numbered.items() if path not in kept}
        return replaced | blobs

    def _files_in(self, path: str) -> dict[str, Any]:
        """The files of a record. Raises ``StoreError`` for a damaged one: what it names must not count as unused."""
        try:
            return dict(json.loads(self._get(path))["files"])
        except (ValueError, KeyError, TypeError):
            raise StoreError(f"{self.shown(path)} is damaged; run `rkd store verify --mend` first") from None

    def discard(self, unused: list[str]) -> None:
        """See ``Place``. A blob that another machine has written again meanwhile stays: a new result may hold it."""
        with self._talking("delete what is not used"):
            for path in unused:
                try:
                    written = _obstore().head(self._objects, path)["last_modified"]
                except FileNotFoundError:
                    continue
                if not path.startswith(f"{_BLOBS}/") or datetime.now(UTC) - written > UNUSED_FOR:
                    _obstore().delete(self._objects, path)

    def read_again(self, record: Record, files: Files) -> str | None:
        """See ``Place``: every blob is read from the bucket; one that several entries share, once."""
        for name, file in record.files.items():
            if (wrong := self._wrong_with(file["sha256"])) is not None:
                return f"{self.shown(record.name)}/{name} is {wrong} in the bucket ({_blob(file['sha256'])})"
        return None

    def _wrong_with(self, sha256: str) -> str | None:
        if sha256 not in self._looked_at:
            found = hashlib.sha256()
            with self._talking(f"read {_blob(sha256)}"):
                try:
                    for chunk in _obstore().get(self._objects, _blob(sha256)):
                        found.update(chunk)
                    self._looked_at[sha256] = None if found.hexdigest() == sha256 else "damaged"
                except FileNotFoundError:
                    self._looked_at[sha256] = "missing"
        return self._looked_at[sha256]

    # Objects

    def _open(self) -> str:
        """Refuse a store of another layout, and a server that lets two writers both create an object.

        Returns which store it is, as whoever began it drew; empty for one that was begun before that was done.
        """
        content = json.dumps({"layout": LAYOUT, "id": uuid.uuid4().hex}).encode()
        found = self._store_object()
        if found is None:
            with suppress(Superseded):
                self._create(_STORE, content)
            found = self._store_object()
        if not isinstance(found, dict) or found.get("layout") != LAYOUT:
            layout = found.get("layout") if isinstance(found, dict) else "no number"
            raise StoreError(
                f"{self.address} has layout {layout}, and this version of rkd-pipeline knows {LAYOUT}; "
                "upgrade rkd-pipeline, or use another store"
            )
        obs = _obstore()
        with self._talking("see whether the server keeps its promises"):
            try:
                obs.put(self._objects, _STORE, content, mode="create", use_multipart=False)
            except obs.exceptions.AlreadyExistsError:
                return str(found.get("id", ""))
        raise StoreError(
            f"{self.address}: the object store took a PUT with If-None-Match: * over an object that exists, so two "
            "writers could both believe that they had made a result. It needs conditional writes; use another server, "
            "or a newer version of this one"
        )

    def _store_object(self) -> Any:
        """What the store says of itself; None where nothing is there yet."""
        with self._talking("open the store"):
            try:
                return json.loads(bytes(_obstore().get(self._objects, _STORE).bytes()))
            except FileNotFoundError:
                return None
            except ValueError:
                raise StoreError(
                    f'{self.shown(_STORE)} is damaged; if this is a store, put {{"layout": {LAYOUT}}} there'
                ) from None

    def _create(self, path: str, content: bytes) -> None:
        """Write an object that must not be there yet, whole; raises ``Superseded`` where another has written it."""
        obs = _obstore()
        with self._talking(f"write {path}"):
            try:
                obs.put(self._objects, path, content, mode="create", use_multipart=False)
            except obs.exceptions.AlreadyExistsError:
                found = self._get(path)
                if found == content:
                    return  # our own request, repeated after its answer was lost, or another's that says the same
                size = len(found) if content.startswith(found) and found else None  # ours, and cut
            else:
                size = int(obs.head(self._objects, path)["size"])
        if size == len(content):
            return
        if size is not None:
            raise StoreError(
                f"{self.shown(path)} has {size} bytes after {len(content)} were written; see what lies between this "
                "machine and the object store, then run `rkd store verify --mend`"
            )
        raise Superseded(f"{self.shown(path)} was written by another process first; nothing of this one's was kept")

    def _upload(self, file: Path, sha256: str, size: int) -> None:
        obs, path = _obstore(), _blob(sha256)
        with self._talking(f"upload {file.name}"):
            with suppress(FileNotFoundError):
                found = obs.head(self._objects, path)
                young = datetime.now(UTC) - found["last_modified"] < UNUSED_FOR / 2
                if found["size"] == size and young:
                    return
            obs.put(self._objects, path, file)
            found = obs.head(self._objects, path)
        if found["size"] != size:
            raise StoreError(
                f"{self.shown(path)} has {found['size']} bytes after {size} were uploaded from {file}; see what lies "
                "between this machine and the object store"
            )

    def _get(self, path: str) -> bytes:
        with self._talking(f"read {path}"):
            try:
                return bytes(_obstore().get(self._objects, path).bytes())
            except FileNotFoundError:
                raise StoreError(f"{self.shown(path)} is gone from the bucket, and was there a moment ago") from None

    def _newest(self, prefix: str) -> tuple[int, bool]:
        """Highest number directly under a prefix, 0 where there is none, and whether that object holds anything."""
        with self._talking(f"list {prefix}"):
            found = _obstore().list_with_delimiter(self._objects, prefix)["objects"]
        numbered = [(_number(str(o["path"])), int(o["size"]) > 0) for o in found]
        return max(numbered, default=(0, False))

    def _list(self, prefix: str) -> Iterator[tuple[str, int]]:
        with self._talking(f"list {prefix}"):
            for page in _obstore().list(self._objects, prefix):
                for found in page:
                    yield str(found["path"]), int(found["size"])

    @contextmanager
    def _talking(self, doing: str) -> Iterator[None]:
        """Let failures of the server and of the network be ``StoreError``s that say where, without a credential."""
        try:
            yield
        except _obstore().exceptions.BaseError as error:
            raise StoreError(
                f"{self.address} could not {doing}: {_reason(error)}. See that the object store is up and that this "
                f"machine's credentials ({_credentials(self._address)}) let it read and write there; start again then: "
                "what is done is kept"
            ) from None


def open_bucket(address: str, root: Path, *, cache_bytes: int, backup_seconds: float) -> BucketPlace:
    """The store at an address such as ``s3://bucket/prefix``; how to get in, obstore reads from the environment.

    Raises ``StoreError`` where obstore is not installed, or the address or the bucket cannot be used.
    """
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise StoreError(
            f"a store in a bucket ({address}) needs obstore; install it with pip install 'rkd-pipeline[bucket]'"
        ) from error
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    settings: dict[str, Any] = {
        "client_options": {"timeout": "60s", "connect_timeout": "10s", "allow_http": plain},
        "retry_config": {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=60), "backoff": _BACKOFF},
    }
    if address.startswith("s3://"):  # a request that some servers lack, and that saves nothing here
        settings["disable_bulk_delete"] = True
    if address.startswith("file://"):
        settings = {}
        folder = Path(address.removeprefix("file://"))
        if not folder.is_dir() and not Path(unquote(str(folder))).is_dir():
            raise StoreError(
                f"RKD_STORE={address}: there is no folder {folder}. See that the share is mounted on this machine; for "
                "a new store, make the folder once"
            )
    try:
        objects = from_url(address, **settings)
    except _obstore().exceptions.BaseError as error:
        raise StoreError(
            f"RKD_STORE={shown(address)} is no place that a store can lie in: {_reason(error)}; it is a folder, or the "
            "address of a bucket, such as s3://bucket/rkd"
        ) from None
    return BucketPlace(objects, address, root, cache_bytes=cache_bytes, backup_seconds=backup_seconds)


def _obstore() -> Any:
    import obstore

    return obstore


def _credentials(address: str) -> str:
    """What names them in the environment."""
    return {"gs": "GOOGLE_…", "az": "AZURE_…", "file": "its user"}.get(address.partition("://")[0], "AWS_…")


def _blob(sha256: str) -> str:
    return f"{_BLOBS}/{sha256[:2]}/{sha256}"


def _number(path: str) -> int:
    return int(path.rpartition("/")[2].removesuffix(".json"))


def _tag_file(file: Path) -> Path:
    return file.with_name(f".{file.name}.uploaded")


def _quoted(name: str) -> str:
    """A name as an object may have it on every server: letters that are not plain as ``=`` and their bytes in hex."""
    return "/".join("".join(c if _PLAIN.match(c) else _hex(c) for c in part) for part in name.split("/"))


def _hex(letter: str) -> str:
    return "".join(f"={byte:02X}" for byte in letter.encode(errors="surrogateescape"))


def _unquoted(name: str) -> str:
    """The inverse. Raises ``StoreError`` for a name that this program never gives: it would lead out of a folder."""
    raw = re.sub(rb"=([0-9A-F]{2})", lambda m: bytes.fromhex(m[1].decode()), name.encode())
    found = raw.decode(errors="surrogateescape")
    _refuse_outside(found, "the bucket")
    return found


def _refuse_outside(name: str, where: str) -> None:
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise StoreError(
            f"{where} holds the name {name!r}, which leads out of its folder; somebody else has put it there"
        )


def _reason(error: Exception) -> str:
    """The first line of what obstore says, without an address that may hold a secret."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"https?://\S+", lambda m: shown(m[0]), first)
