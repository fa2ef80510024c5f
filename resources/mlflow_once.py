"""Sending something to MLflow once: what is on record, what MLflow has, and what an attempt has left half-made.

A record in the store says what was sent; whether it is still there, MLflow is asked each time. While something is
being sent, a file beside its record names the attempt, so that the next one finds what that left behind.
"""

import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from resources.mlflow_client import ATTEMPT_TAG, CONTENT_TAG, Server, delete_run, reachable, still_there
from rkd_pipeline.stages.mirror_records import read_tracking
from rkd_pipeline.store.document import Document
from rkd_pipeline.store.result_store import Store

Tags = dict[str, str]


@dataclass(frozen=True)
class Sending:
    """How something is sent, once what is our own work is done.

    Attributes:
        send: to a server, under tags, going on with a run that was left (None: from the start); returns MLflow's id.
        goes_on: whether a run that an attempt has left can be gone on with; all others are deleted.
    """

    send: Callable[[Server, Tags, Any], str]
    goes_on: Callable[[Server, Any], bool] = lambda server, run: False


@dataclass(frozen=True)
class Item:
    """Something to mirror.

    Attributes:
        record: the file that says what was sent.
        marks: of its content as it is now, see ``mirror_marks``.
        find: MLflow's id of something whole under one of the marks, or under the id on record.
        prepared: does our own work for it: errors there are not MLflow's.
        sent: called when MLflow has it.
    """

    record: Document
    marks: tuple[str, ...]
    find: Callable[[Server, str | None], str | None]
    prepared: Callable[[], AbstractContextManager[Sending]]
    sent: Callable[[], None] = lambda: None


def lock_name(record: Document) -> str:
    """The lock under which one thing is sent."""
    return f"mlflow {record.name}"


def send_once(
    store: Store, item: Item, reach: Callable[[Store], Server], given: Tags, shown_uri: str
) -> tuple[str, bool]:
    """MLflow's id of an item, and whether it was sent, or put on record, only now.

    One process at a time: another that sends the same waits, and finds it sent.
    """
    with store.lock(lock_name(item.record)):
        known = read_tracking(item.record)
        current = str(known["run_id"]) if known is not None and known["content"] in item.marks else None
        server = reach(store)
        with reachable():
            found = item.find(server, current)
            left = left_by_attempt(server, item.record)
        if found is None:
            found = _send(item, server, left, given)
        else:
            with reachable():
                _delete([run for run in left if run.info.run_id != found], server)
        if found != current:
            record = {"run_id": found, "content": item.marks[0], "uri": shown_uri}
            item.record.write_json(record)
        attempt_file(item.record).delete()
        item.sent()
    return found, found != current


def _send(item: Item, server: Server, left: list[Any], given: Tags) -> str:
    with item.prepared() as sending, reachable():
        going_on = next((run for run in left if sending.goes_on(server, run)), None)
        _delete([run for run in left if run is not going_on], server)
        tags = given | {CONTENT_TAG: item.marks[0]}
        if going_on is None:
            tags |= new_attempt(item.record)
        return sending.send(server, tags, going_on)


def attempt_file(record: Document) -> Document:
    """Names the attempt that is being made, or was broken off."""
    return record.beside(".attempt")


def new_attempt(record: Document) -> Tags:
    """Put a new attempt on record; returns the tag that its run must have."""
    attempt = uuid.uuid4().hex
    attempt_file(record).write(attempt.encode())
    return {ATTEMPT_TAG: attempt}


def left_by_attempt(server: Server, record: Document) -> list[Any]:
    """Runs that the attempt on record has begun; those of other stores are theirs, dead or alive."""
    attempt = attempt_file(record).read()
    if attempt is None:
        return []
    return list(server.client.search_runs([server.experiment], f"tags.`{ATTEMPT_TAG}` = '{attempt.decode()}'"))


def _delete(runs: list[Any], server: Server) -> None:
    for run in runs:
        delete_run(server, run.info.run_id)


def find_run(server: Server, known: str | None, mark: str, *, with_model: bool = False) -> str | None:
    """The run on record if MLflow has it still, or another whole one of the same content: the record may be lost."""
    if known is not None:
        if still_there(server, known, with_model=with_model):
            return known
        delete_run(server, known)  # what is left of it is not whole
    runs = server.client.search_runs([server.experiment], f"tags.`{CONTENT_TAG}` = '{mark}'")
    ids = (str(run.info.run_id) for run in runs)
    return next((i for i in ids if still_there(server, i, with_model=with_model)), None)
