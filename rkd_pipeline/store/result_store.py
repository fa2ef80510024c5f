"""Where results lie, how they are written, and when one counts as done.

One root, ``RKD_STORE``; one folder per result, ``<stage>/<key>/.../``, holding data files and ``provenance.json``.
A folder appears whole (written under a temporary name, then renamed) or not at all. It is *done* when its provenance
matches what is asked for: stage version, parameters, and the data versions of its inputs. The data version of a
result is a hash of its data files, so equal results stop a change from travelling further.

A result of an older stage version is stale: it is made again. One of a newer version is refused wherever it is met,
since this code cannot read it, and making it again would lose it.

Everything is on the disk before it gets its name, and a result's files are hashed before they are believed: once per
state of a file, as ``.verified/`` records. That folder is safe to lose.

The root is a folder of a local file system: locks, renames and memory maps need one.
"""

import importlib.metadata
import json
import logging
import os
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

from filelock import Timeout

from rkd_pipeline import __version__
from rkd_pipeline.errors import NewerResult, StoreError
from rkd_pipeline.store.files import (
    canonical_json,
    file_sha256,
    make_folder,
    publish,
    remove_leftovers,
    sync,
    text_sha256,
    write_atomically,
)
from rkd_pipeline.store.hashes import HashRecord, State, state_of
from rkd_pipeline.store.locks import locked
from rkd_pipeline.store.stage_versions import STAGES, Stage

PROVENANCE = "provenance.json"
VERIFIED = ".verified"
_log = logging.getLogger(__name__)
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
    """A finished result: its folder, its provenance, and whether it was there already."""

    folder: Path
    provenance: Provenance
    reused: bool = False

    @property
    def data_version(self) -> str:
        """Hash of the data files."""
        return self.provenance.data_version

    @property
    def facts(self) -> dict[str, Any]:
        """What the stage found out."""
        return self.provenance.facts


class Store:
    """Results under one root. A second store is a second world: Dagster's home and MLflow lie under the root too.

    One that is only looked at (``only_look``) makes nothing: where ``produce`` would, it raises ``StoreError``.
    """

    def __init__(self, root: Path, *, only_look: bool = False) -> None:
        self.root = root.resolve()
        self._only_look = only_look
        self._records: dict[tuple[str, ...], HashRecord] = {}

    @property
    def dagster_home(self) -> Path:
        """Home of this store's Dagster instance."""
        return self.root / ".dagster"

    @property
    def mlflow_folder(self) -> Path:
        """Embedded MLflow: database and artifacts."""
        return self.root / "mlflow"

    @property
    def teachers_file(self) -> Path:
        """The registry of weights files."""
        return self.root / "teachers.toml"

    @property
    def targets_file(self) -> Path:
        """The user's own targets."""
        return self.root / "targets.toml"

    def folder(self, ref: Ref) -> Path:
        """Where a result lies, whether or not it is there."""
        return self.root.joinpath(ref.stage, *ref.key)

    def find(self, ref: Ref) -> Result | None:
        """The result as stored, or None.

        Raises ``NewerResult`` where a newer version of this package made it, ``StoreError`` where its provenance is
        unreadable.
        """
        folder = self.folder(ref)
        try:
            record = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
            _refuse_newer(ref, folder, record)  # first: a newer version may have written other fields
            return Result(folder, Provenance(**record), reused=True)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{folder / PROVENANCE} is damaged ({error}); delete the folder to make it again"
            ) from error

    def require(self, stage: Stage, *key: str) -> Result:
        """A result that is there and up to date; raises ``StoreError`` saying which step to run otherwise."""
        ref = Ref(stage.name, *key)
        result = self.find(ref)
        if result is None:
            raise StoreError(f"{ref} is missing from {self.root}; materialise it first, or use `rkd run`")
        if reason := self.why_stale(result):
            raise StoreError(f"{ref} is stale: {reason}; materialise it again, or use `rkd run`")
        return result

    def why_stale(self, result: Result) -> str | None:
        """Why a stored result is not what its stage would make now, looking all the way up; None if it is.

        Every result on the way is looked at once, and its files are hashed where they have not been in this state.
        """
        return self._why_stale(result, {})

    def _why_stale(self, result: Result, seen: dict[str, tuple[Result | None, str | None]]) -> str | None:
        found = result.provenance
        stage = STAGES.get(found.stage)
        if stage is None or found.stage_version != stage.version:
            now = stage.version if stage else "gone"
            return f"it was made by version {found.stage_version} of {found.stage}, which is now {now}"
        for name, recorded in found.inputs.items():
            if name not in seen:
                upstream = self.find(Ref.parse(name))
                seen[name] = (upstream, None if upstream is None else self._why_stale(upstream, seen))
            upstream, reason = seen[name]
            if upstream is None or upstream.data_version != recorded:
                return f"{name} has changed since"
            if reason:
                return f"{name} is stale ({reason})"
        return self._damage(result)

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
        if damage := self._damage(result):
            _log.warning("%s is made again: %s", ref, damage)
            return None
        return result

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
        folder = self.folder(ref)
        with self.lock(str(ref)):
            if done := self.current(stage, key, parameters, inputs):
                return done
            if self._only_look:
                raise StoreError(f"{ref} is missing or not up to date, and {self.root} was opened to look only")
            remove_leftovers(folder)
            make_folder(folder.parent)
            temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
            temporary.mkdir()
            started = time.monotonic()
            try:
                facts = write(temporary) or {}
                files = {
                    str(p.relative_to(temporary)): {"sha256": file_sha256(p), "bytes": p.stat().st_size}
                    for p in sorted(temporary.rglob("*"))
                    if p.is_file()
                }
                provenance = Provenance(
                    stage=stage.name,
                    key=list(key),
                    stage_version=stage.version,
                    parameters=dict(parameters),
                    inputs=_versions(inputs),
                    data_version=text_sha256(canonical_json({n: f["sha256"] for n, f in files.items()}))[:16],
                    files=files,
                    facts=facts,
                    environment=_environment(time.monotonic() - started),
                )
                write_atomically(temporary / PROVENANCE, json.dumps(asdict(provenance), indent=1).encode())
                _swap(temporary, folder)
                self._believe(result := Result(folder, provenance))
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        return result

    def remove(self, ref: Ref) -> None:
        """Delete a result, whole: it is gone under its name before its first file is. The caller holds its lock."""
        folder = self.folder(ref)
        hidden = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.old.tmp")
        os.rename(folder, hidden)
        sync(folder.parent)
        shutil.rmtree(hidden, ignore_errors=True)
        self._records.pop((ref.stage, *ref.key), None)
        self._record_file(ref.stage, *ref.key).unlink(missing_ok=True)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock that the kernel frees when this process dies, however it dies; logs whom it waits for."""
        path = self._lock_file(name)
        # The holder is written beside the lock, not into it: another process may have the lock file open.
        holder = path.with_suffix(".holder")
        with ExitStack() as held:
            try:
                held.enter_context(locked(path, self.root, timeout=0))
            except Timeout:
                _log.warning("waiting for %s, held by %s", name, _holder(path))
                held.enter_context(locked(path, self.root))
            write_atomically(holder, f"process {os.getpid()} on {socket.gethostname()}".encode(), durable=False)
            yield

    @contextmanager
    def lock_if_free(self, name: str) -> Iterator[bool]:
        """Hold a lock for the block if nobody else does; gives whether it is held now, and never waits."""
        with ExitStack() as held:
            try:
                held.enter_context(locked(self._lock_file(name), self.root, timeout=0))
            except Timeout:
                yield False
                return
            yield True

    def at_work(self) -> list[str]:
        """Who holds a lock of this store right now, in words; empty where nobody is at work."""
        return sorted({_holder(file) for file in (self.root / ".locks").glob("*.lock") if not _is_free(file)})

    def _lock_file(self, name: str) -> Path:
        path = self.root / ".locks" / f"{text_sha256(name)[:16]}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def hashes(self, *names: str) -> HashRecord:
        """The record of hashes that have these names; of a result: its stage and key."""
        if names not in self._records:
            self._records[names] = HashRecord(self._record_file(*names))
        return self._records[names]

    def _record_file(self, *names: str) -> Path:
        return self.root.joinpath(VERIFIED, *names[:-1], f"{names[-1]}.json")

    def _hashes_of(self, result: Result) -> HashRecord:
        return self.hashes(result.provenance.stage, *result.provenance.key)

    def _damage(self, result: Result) -> str | None:
        """Which file is missing, cut short or not what it was, and how that shows; None where all are whole."""
        recorded, states = result.provenance.files, {}
        for name, file in recorded.items():
            state = state_of(f"{result.folder}/{name}")
            if state is None or state.size != file["bytes"]:
                return f"{result.folder / name} is missing or cut short"
            states[name] = state
        found = self._hashes_of(result).of(result.folder, states, f"check {result.folder.name}")
        for name, file in recorded.items():
            if found[name] != file["sha256"]:
                return (
                    f"{result.folder / name} is damaged: its SHA-256 begins with {found[name][:8]}, and with "
                    f"{file['sha256'][:8]} when it was written"
                )
        return None

    def _believe(self, result: Result) -> None:
        """What was just written need not be hashed again: its hashes are known, and it is on the disk."""
        files = result.provenance.files
        states = {name: state_of(result.folder / name) for name in files}
        known: dict[str, State] = {name: state for name, state in states.items() if state is not None}
        self._hashes_of(result).note(known, {name: file["sha256"] for name, file in files.items()})

    def keys(self, stage: Stage) -> list[tuple[str, ...]]:
        """Partitions of a stage that are in the store, sorted; stale ones too."""
        base = self.root / stage.name
        found = (p.parent.relative_to(base).parts for p in base.rglob(PROVENANCE))
        return sorted(key for key in found if not any(part.startswith(".") for part in key))


def _refuse_newer(ref: Ref, folder: Path, record: Mapping[str, Any]) -> None:
    stage, made = STAGES.get(ref.stage), record.get("stage_version")
    if stage is None or not isinstance(made, int) or made <= stage.version:
        return
    package = record.get("environment", {}).get("versions", {}).get("rkd-pipeline", "a newer version")
    raise NewerResult(
        f"{ref} was made by version {made} of {ref.stage} (rkd-pipeline {package}), and this is rkd-pipeline "
        f"{__version__}, which knows version {stage.version}; upgrade rkd-pipeline, or use another store (--store or "
        f"RKD_STORE). {folder} was not changed"
    )


def _holder(lock_file: Path) -> str:
    holder = lock_file.with_suffix(".holder")
    return holder.read_text() if holder.exists() else "another process"


def _is_free(lock_file: Path) -> bool:
    try:
        with locked(lock_file, timeout=0):
            return True
    except Timeout:
        return False


def _versions(inputs: Sequence[Result]) -> dict[str, str]:
    return {str(Ref(i.provenance.stage, *i.provenance.key)): i.data_version for i in inputs}


def _swap(temporary: Path, folder: Path) -> None:
    """Put ``temporary`` in the place of ``folder``; a reader with open files keeps the old ones."""
    if folder.exists():
        old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.old.tmp")
        os.rename(folder, old)
        publish(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        publish(temporary, folder)


def _environment(seconds: float) -> dict[str, Any]:
    versions = {p: importlib.metadata.version(p) for p in _PACKAGES} | {"rkd-pipeline": __version__}
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "versions": versions,
    }
