"""A store as a whole: copied from one place to another, and verified byte by byte."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from shutil import copyfile

from rkd_pipeline.errors import DamagedRecord
from rkd_pipeline.models import teacher_files
from rkd_pipeline.operations import champions, work_orders
from rkd_pipeline.progress import bar
from rkd_pipeline.stages import rounds
from rkd_pipeline.stages.mirror_records import TRACKING_FOLDER
from rkd_pipeline.stages.trained_model import begun_trainings, checkpoint_file
from rkd_pipeline.store.document import Document
from rkd_pipeline.store.files import make_folder, publish
from rkd_pipeline.store.place import PROVENANCE, Files, Record
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import STAGES, TRAINED_MODEL

_DOCUMENT_FOLDERS = (rounds.FOLDER, work_orders.FOLDER, TRACKING_FOLDER)


@dataclass
class Copied:
    """What a copy came to: how many things were copied, and how many were there already."""

    copied: int = 0
    there: int = 0
    unreadable: list[str] = field(default_factory=list)


def copy(source: Store, target: Store) -> Copied:
    """Bring everything that a store holds into another: results, champions, documents and checkpoints.

    What the target has already stays, and is not read again, so that the same call goes on where another was broken
    off. Every file is compared with its hash on the way; an entry that is damaged in the source is left out and named.
    Of what both have and what differs, the source's counts. MLflow and Dagster's history are not part of it.
    """
    done = Copied()
    damaged: dict[str, str] = {}
    with source.one_look():
        entries = list(_entries(source, damaged))
    done.unreadable += damaged.values()
    for document in _documents(source):
        _copy_document(document, target, done)
    with target.one_look(), bar(len(entries), "copy", "result") as shown:
        for record, name_of_record in entries:
            _copy_entry(source, target, record, name_of_record, done)
            shown.update()
    for target_name, training in sorted(begun_trainings(source)):
        _copy_checkpoint(source, target, target_name, training)
        done.copied += 1
    return done


def _copy_checkpoint(source: Store, target: Store, target_name: str, training: str) -> None:
    """Under the lock of the training, which would otherwise write the same file."""
    files = [checkpoint_file(store, target_name, training) for store in (source, target)]
    source.place.restore(files[0])
    with target.lock(str(Ref(TRAINED_MODEL.name, target_name, training))):
        make_folder(files[1].parent)
        temporary = files[1].with_name(f".{files[1].name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            copyfile(files[0], temporary)
            publish(temporary, files[1])
        finally:
            temporary.unlink(missing_ok=True)
        target.place.back_up(files[1])


def _copy_entry(source: Store, target: Store, record: Record, name_of_record: str, done: Copied) -> None:
    there = target.place.find(record.name, name_of_record)
    if there is not None and there.content == record.content:
        done.there += 1
        return
    files = _files_of(record, name_of_record)
    if (damage := source.place.damage(record, files)) is not None:
        done.unreadable.append(damage)
        return
    with target.lock(_lock_of(record.name)) as still_held:
        after = target.place.number(record.name)
        with target.half_made(record.name) as temporary:
            for name in [*files, name_of_record]:
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                copyfile(source.place.file(record, name), temporary / name)
            still_held()
            sizes = {n: f | {"bytes": (temporary / n).stat().st_size} for n, f in files.items()}
            target.place.publish(temporary, record.name, sizes, name_of_record, after=after)
    done.copied += 1


def _copy_document(document: Document, target: Store, done: Copied) -> None:
    content, copy = document.read(), target.document(document.name)
    with copy.edited():
        if content is None or copy.read() == content:
            done.there += content is not None
            return
        copy.write(content)
        done.copied += 1


def verify(store: Store) -> dict[str, str]:
    """Read every file of a store; names of entries that are not what was written, to what is wrong."""
    wrong: dict[str, str] = {}
    with store.one_look():
        entries = list(_entries(store, wrong))
        with bar(len(entries), "verify", "result") as shown:
            for record, name_of_record in entries:
                if (damage := store.place.read_again(record, _files_of(record, name_of_record))) is not None:
                    wrong[record.name] = damage
                shown.update()
    return wrong


def mend(store: Store, wrong: dict[str, str]) -> list[str]:
    """Let damaged results be gone, so that the next run makes them again; names of those that cannot be made again."""
    results = [name for name in wrong if name.split("/")[0] in STAGES]
    for name in results:
        with store.lock(_lock_of(name)):
            store.place.withdraw(name)
    return [name for name in wrong if name not in results]


def _entries(store: Store, damaged: dict[str, str]) -> Iterator[tuple[Record, str]]:
    """Every result, champion and teacher's file, with the name of its record's file; others go into ``damaged``."""
    folders = [
        *((stage, PROVENANCE) for stage in STAGES),
        (champions.FOLDER, champions.REIGN),
        (teacher_files.FOLDER, teacher_files.RECORD),
    ]
    for folder, name_of_record in folders:
        for name in store.place.entries(folder, name_of_record):
            try:
                record = store.place.find(name, name_of_record)
            except DamagedRecord as error:
                damaged[name] = str(error)
                continue
            if record is not None:
                yield record, name_of_record


def _documents(store: Store) -> list[Document]:
    named = [store.targets_file, store.teachers_file]
    looks = [champions.looks_file(store, target) for target in champions.targets_with_champions(store)]
    return [*named, *looks, *(d for folder in _DOCUMENT_FOLDERS for d in store.documents(folder))]


def _files_of(record: Record, name_of_record: str) -> Files:
    """Files of an entry but for its record, with their hashes and, where they are stated, sizes."""
    found = record.files or json.loads(record.content)["files"]
    named = {name: file if isinstance(file, dict) else {"sha256": file} for name, file in found.items()}
    return {name: file for name, file in named.items() if name != name_of_record}


def _lock_of(name: str) -> str:
    """The lock of whoever writes an entry."""
    stage, *key = name.split("/")
    return f"champion {key[0]}" if stage == champions.FOLDER else str(Ref(stage, *key))
