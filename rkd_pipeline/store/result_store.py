"""How results are written, and when one counts as done.

One folder per result, ``<stage>/<key>/.../``, holding data files and ``provenance.json``; where it lies is the
business of ``place.py``: in a folder of this machine, or in a bucket that several machines share. It is *done* when its
provenance matches what is asked for: stage version, parameters, and the data versions of its inputs. The data version
of a result is a hash of its data files, so equal results stop a change from travelling further.

A result of an older stage version is stale: it is made again. One of a newer version is refused wherever it is met,
since this code cannot read it, and making it again would lose it.
"""

import importlib.metadata
import json
import logging
import platform
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rkd_pipeline import __version__
from rkd_pipeline.errors import NewerResult, StoreError
from rkd_pipeline.store.document import Document
from rkd_pipeline.store.files import (
    canonical_json,
    file_sha256,
    make_folder,
    remove_leftovers,
    text_sha256,
    write_atomically,
)
from rkd_pipeline.store.folder_place import VERIFIED, FolderPlace
from rkd_pipeline.store.hashes import HashRecord
from rkd_pipeline.store.look import Look, look_at, one_look
from rkd_pipeline.store.named_locks import FileLocks, NamedLocks, StillHeld
from rkd_pipeline.store.place import PROVENANCE, Files, Place, Record
from rkd_pipeline.store.stage_versions import STAGES, Stage

_log = logging.getLogger(__name__)
_LOOK_AGAIN = 0.2  # seconds between looks for a free place of what several share
_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "pillow")


@dataclass(frozen=True)
class Ref:
    """Names one result: a stage and its partition, e.g. ``Ref("metrics", "brain_mri", "rkd-s0")``."""

    stage: str
    key: tuple[str, ...]

    def __init__(self, stage: str, *key: str) -> None:
        object.__setattr__(self, "stage", stage)
        object.__setattr__(self, "key", key)

    @classmethod
    def parse(cls, text: str) -> "Ref":
        """The inverse of ``str``: how inputs are named in a provenance."""
        stage, _, keys = text.partition("[")
        return cls(stage, *(k for k in keys.removesuffix("]").split(", ") if k))

    def __str__(self) -> str:
        return f"{self.stage}[{', '.join(self.key)}]" if self.key else self.stage


@dataclass(frozen=True)
class Provenance:
    """What a result was made from, by what, and when.

    Attributes:
        stage, key, stage_version: which result, by which version of the code.
        parameters: everything else that shaped it, as plain values.
        inputs: results read, as ``str(Ref)`` to data version.
        data_version: hash of the data files; what consumers record.
        files: file name to SHA-256 and size in bytes.
        facts: what the stage found out, for people and for consumers (counts, hashes, cost).
        environment: versions, host, time.
    """

    stage: str
    key: list[str]
    stage_version: int
    parameters: dict[str, Any]
    inputs: dict[str, str]
    data_version: str
    files: dict[str, dict[str, Any]]
    facts: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """A finished result: its provenance, its files, and whether it was there already."""

    provenance: Provenance
    record: Record
    place: Place = field(repr=False)
    reused: bool = False

    @property
    def folder(self) -> Path:
        """Its files, on this machine, to be read only; ask anew before each use (see ``Place.folder``)."""
        return self.place.folder(self.record)

    def file(self, name: str) -> Path:
        """One of its files; of a large result in a bucket, the others are not fetched."""
        return self.place.file(self.record, name)

    @property
    def data_version(self) -> str:
        """Hash of the data files."""
        return self.provenance.data_version

    @property
    def facts(self) -> dict[str, Any]:
        """What the stage found out."""
        return self.provenance.facts


class Store:
    """Results in one place. A second store is a second world: Dagster's home and MLflow lie in its folder too.

    Args:
        place: a folder, or what ``bucket_place.py`` opens.
        locks: among the processes that share the place; those of this machine where none are given.
        only_look: nothing is made: where ``produce`` would, it raises ``StoreError``.
    """

    def __init__(self, place: Path | Place, locks: NamedLocks | None = None, *, only_look: bool = False) -> None:
        self.place: Place = FolderPlace(place) if isinstance(place, Path) else place
        self._machine = FileLocks.of(self.root)
        self.locks: NamedLocks = locks or self._machine
        self._only_look = only_look

    @property
    def root(self) -> Path:
        """Its folder on this machine: all of it, or of a store in a bucket what other machines do not need."""
        return self.place.root

    @property
    def address(self) -> str:
        """Where it lies, for people."""
        return self.place.address

    def to_look_at(self) -> "Store":
        """The same store, in which nothing is made."""
        return Store(self.place, self.locks, only_look=True)

    @property
    def dagster_home(self) -> Path:
        """Home of this store's Dagster instance."""
        return self.root / ".dagster"

    @property
    def mlflow_folder(self) -> Path:
        """Embedded MLflow: database and artifacts."""
        return self.root / "mlflow"

    @property
    def teachers_file(self) -> Document:
        """The registry of weights files."""
        return self.document("teachers.toml")

    @property
    def targets_file(self) -> Document:
        """The user's own targets."""
        return self.document("targets.toml")

    def document(self, *name: str) -> Document:
        """A document by its name, whether or not it is there."""
        return Document(self.place, self.locks, "/".join(name))

    def documents(self, *under: str) -> list[Document]:
        """All documents below a name, sorted."""
        return [Document(self.place, self.locks, name) for name in self.place.documents("/".join(under))]

    def folder(self, ref: Ref) -> Path:
        """Where a result is made on this machine; in a store that is a folder, where it lies."""
        return self.root / _name(ref)

    def find(self, ref: Ref) -> Result | None:
        """The result as stored, or None.

        Raises ``NewerResult`` where a newer version of this package made it, ``StoreError`` where its provenance is
        unreadable.
        """
        look = look_at(self.place)
        return self._read(ref) if look is None else self._seen(str(ref), look)

    def _seen(self, name: str, look: Look) -> Result | None:
        if name not in look.results:
            look.results[name] = self._read(Ref.parse(name))
        return look.results[name]

    def _read(self, ref: Ref) -> Result | None:
        name = _name(ref)
        record = self.place.find(name)
        if record is None:
            return None
        try:
            made = json.loads(record.content)
            _refuse_newer(ref, self.place, made)  # first: a newer version may have written other fields
            return Result(Provenance(**made), record, self.place, reused=True)
        except (ValueError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{self.place.shown(name)}/{PROVENANCE} is damaged ({error}); delete the folder to make it again"
            ) from error

    def require(self, stage: Stage, *key: str) -> Result:
        """A result that is there and up to date; raises ``StoreError`` saying which step to run otherwise."""
        ref = Ref(stage.name, *key)
        result = self.find(ref)
        if result is None:
            raise StoreError(f"{ref} is missing from {self.address}; materialise it first, or use `rkd run`")
        if reason := self.why_stale(result):
            raise StoreError(f"{ref} is stale: {reason}; materialise it again, or use `rkd run`")
        return result

    def why_stale(self, result: Result) -> str | None:
        """Why a stored result is not what its stage would make now, looking all the way up; None if it is.

        Every result on the way is looked at once, and its files are hashed where they have not been in this state.
        """
        look = look_at(self.place) or Look(self.place)
        name = str(Ref(result.provenance.stage, *result.provenance.key))
        if look.results.get(name) is not result:
            return self._why_stale(result, look)
        if name not in look.reasons:
            look.reasons[name] = self._why_stale(result, look)
        return look.reasons[name]

    def _why_stale(self, result: Result, look: Look) -> str | None:
        found = result.provenance
        stage = STAGES.get(found.stage)
        if stage is None or found.stage_version != stage.version:
            now = stage.version if stage else "gone"
            return f"it was made by version {found.stage_version} of {found.stage}, which is now {now}"
        for name, recorded in found.inputs.items():
            upstream = self._seen(name, look)
            if upstream is None or upstream.data_version != recorded:
                return f"{name} has changed since"
            if name not in look.reasons:
                look.reasons[name] = self._why_stale(upstream, look)
            if reason := look.reasons[name]:
                return f"{name} is stale ({reason})"
        return self.place.damage(result.record, found.files)

    def current(
        self, stage: Stage, key: Sequence[str], parameters: Mapping[str, Any], inputs: Sequence[Result]
    ) -> Result | None:
        """The stored result if it is exactly what is asked for, else None."""
        ref = Ref(stage.name, *key)
        result = self.find(ref)
        if result is None:
            return None
        found = result.provenance
        asked = (stage.version, canonical_json(parameters), _versions(inputs))
        if (found.stage_version, canonical_json(found.parameters), found.inputs) != asked:
            return None
        return None if self.place.damage(result.record, found.files) else result

    def produce(
        self,
        stage: Stage,
        key: Sequence[str],
        write: Callable[[Path], dict[str, Any] | None],
        *,
        parameters: Mapping[str, Any] | None = None,
        inputs: Sequence[Result] = (),
    ) -> Result:
        """The result of a stage, made now unless it is current.

        Holds the output's lock, so that two processes never make the same result. ``write`` fills an empty folder
        and returns facts; if it raises, nothing is kept and the old result stays.
        """
        parameters = parameters or {}
        ref = Ref(stage.name, *key)
        if done := self.current(stage, key, parameters, inputs):  # without waiting for others that want it too
            return done
        with self.lock(str(ref)) as still_held:
            self._has_changed(ref)  # another process may have made it, before or while this one waited for its turn
            after = self.place.number(_name(ref))
            if done := self.current(stage, key, parameters, inputs):
                return done
            self._warn_of_damage(ref)
            if self._only_look:
                raise StoreError(f"{ref} is missing or not up to date, and {self.address} was opened to look only")
            with self.half_made(_name(ref)) as temporary:
                started = time.monotonic()
                facts = write(temporary) or {}
                files = files_in(temporary)
                provenance = Provenance(
                    stage=stage.name,
                    key=list(key),
                    stage_version=stage.version,
                    parameters=dict(parameters),
                    inputs=_versions(inputs),
                    data_version=text_sha256(canonical_json({n: f["sha256"] for n, f in files.items()}))[:16],
                    files=dict(files),
                    facts=facts,
                    environment=_environment(time.monotonic() - started),
                )
                write_atomically(temporary / PROVENANCE, json.dumps(asdict(provenance), indent=1).encode())
                still_held()
                record = self.place.publish(temporary, _name(ref), files, after=after)
                self._has_changed(ref)
        return Result(provenance, record, self.place)

    def _warn_of_damage(self, ref: Ref) -> None:
        found = self.find(ref)
        if found is not None and (damage := self.place.damage(found.record, found.provenance.files)):
            _log.warning("%s is made again: %s", ref, damage)

    @contextmanager
    def half_made(self, name: str) -> Iterator[Path]:
        """An empty folder to fill and publish as the entry of that name; gone where the block fails.

        The caller holds the entry's lock, so what dead writers have left of it goes too.
        """
        folder = self.root / name
        remove_leftovers(folder)
        make_folder(folder.parent)
        temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.mkdir()
        try:
            yield temporary
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def remove(self, ref: Ref) -> None:
        """Delete a result, whole. The caller holds its lock."""
        self.place.withdraw(_name(ref))
        self._has_changed(ref)

    @contextmanager
    def lock(self, name: str) -> Iterator[StillHeld]:
        """Hold a lock that is free again when this process dies, however it dies; logs whom it waits for.

        What it gives is called before anything is committed: it raises ``LockLost`` where the lock is lost.
        """
        with _held(self.locks, name) as still_held:
            yield still_held

    @contextmanager
    def machine_lock(self, name: str) -> Iterator[None]:
        """The same for what each machine has of its own: its devices, its databases."""
        with _held(self._machine, name):
            yield

    @contextmanager
    def machine_slot(self, name: str, slots: int) -> Iterator[None]:
        """One of several places of what each machine has of its own, such as a device that trainings share.

        The first place is the lock ``name`` itself: who counts one place and who counts more keep out of each other's.
        """
        if slots == 1:
            with self.machine_lock(name):
                yield
            return
        places = [name, *(f"{name} slot {number}" for number in range(2, slots + 1))]
        waiting = False
        while True:
            with ExitStack() as stack:
                if any(stack.enter_context(self._machine.try_hold(place)) is not None for place in places):
                    yield
                    return
            if not waiting:
                held = ", ".join(sorted({self._machine.holder(place) for place in places}))
                _log.warning("waiting for one of %d places of %s, held by %s", slots, name, held)
            waiting = True
            time.sleep(_LOOK_AGAIN)

    @contextmanager
    def lock_if_free(self, name: str) -> Iterator[bool]:
        """Hold a lock for the block if nobody else does; gives whether it is held now, and never waits."""
        with self.locks.try_hold(name) as held:
            yield held is not None

    def at_work(self) -> list[str]:
        """Who holds a lock of this store right now, in words; empty where nobody is at work."""
        return sorted({*self.locks.at_work(), *self._machine.at_work()})

    @contextmanager
    def one_look(self) -> Iterator[None]:
        """Around a look at many results: what several of them were made from is looked at once.

        What changes in the store meanwhile may not be seen, but for what this process changes itself.
        """
        with one_look(self.place):
            yield

    def _has_changed(self, ref: Ref) -> None:
        if (look := look_at(self.place)) is not None:
            look.forget(str(ref))

    def hashes(self, *names: str) -> HashRecord:
        """A record, kept on this machine, of the hashes of files that lie elsewhere on it."""
        return HashRecord(self.root.joinpath(VERIFIED, *names[:-1], f"{names[-1]}.json"))

    def keys(self, stage: Stage) -> list[tuple[str, ...]]:
        """Partitions of a stage that are in the store, sorted; stale ones too."""
        return sorted(tuple(name.split("/")[1:]) for name in self.place.entries(stage.name))


def files_in(folder: Path) -> Files:
    """The files of a folder: names to SHA-256 and size in bytes."""
    return {
        str(p.relative_to(folder)): {"sha256": file_sha256(p), "bytes": p.stat().st_size}
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@contextmanager
def _held(locks: NamedLocks, name: str) -> Iterator[StillHeld]:
    with ExitStack() as stack:
        held = stack.enter_context(locks.try_hold(name))
        if held is None:
            _log.warning("waiting for %s, held by %s", name, locks.holder(name))
            held = stack.enter_context(locks.hold(name))
        yield held


def _name(ref: Ref) -> str:
    return "/".join((ref.stage, *ref.key))


def _refuse_newer(ref: Ref, place: Place, record: Mapping[str, Any]) -> None:
    stage, made = STAGES.get(ref.stage), record.get("stage_version")
    if stage is None or not isinstance(made, int) or made <= stage.version:
        return
    package = record.get("environment", {}).get("versions", {}).get("rkd-pipeline", "a newer version")
    raise NewerResult(
        f"{ref} was made by version {made} of {ref.stage} (rkd-pipeline {package}), and this is rkd-pipeline "
        f"{__version__}, which knows version {stage.version}; upgrade rkd-pipeline, or use another store (--store or "
        f"RKD_STORE). {place.shown(_name(ref))} was not changed"
    )


def _versions(inputs: Sequence[Result]) -> dict[str, str]:
    return {str(Ref(i.provenance.stage, *i.provenance.key)): i.data_version for i in inputs}


def _environment(seconds: float) -> dict[str, Any]:
    versions = {p: importlib.metadata.version(p) for p in _PACKAGES} | {"rkd-pipeline": __version__}
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "versions": versions,
    }
