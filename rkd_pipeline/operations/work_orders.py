"""Trainings that somebody ordered and that are carried out in the background, one file per order.

    orders/<name>-<attempt>.json    what is to be trained; once the order has ended, why each of its failures failed

The file is all that has to be kept: what is done already, the store knows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from rkd_pipeline.recipes.plans import PlannedTraining
from rkd_pipeline.stages.rounds import read_json
from rkd_pipeline.store.document import Document
from rkd_pipeline.store.result_store import Store

FOLDER = "orders"


@dataclass(frozen=True)
class WorkOrder:
    """Something that was ordered.

    Attributes:
        name: the same order has the same name, however often it is placed.
        attempt: from 1; an order that has ended can be placed again.
        title: for people.
        cells: what to train.
        further: jobs to run on every cell once it is trained.
        tags: of every run.
        failures: ``target training`` to why it failed; None while the order is open.
    """

    name: str
    attempt: int
    title: str
    cells: list[PlannedTraining]
    further: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] | None = None

    @property
    def identity(self) -> str:
        """Name and attempt."""
        return f"{self.name}-{self.attempt}"

    @property
    def is_open(self) -> bool:
        """Still to be carried out."""
        return self.failures is None


def place(
    store: Store,
    name: str,
    title: str,
    cells: Sequence[PlannedTraining],
    *,
    further: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
) -> WorkOrder:
    """Place an order. One of this name that is open is returned as it is; one that has ended is placed anew."""
    with store.lock("orders"):
        before = latest(store, name)
        if before is not None and before.is_open:
            return before
        attempt = before.attempt + 1 if before else 1
        order = WorkOrder(name, attempt, title, list(cells), list(further), dict(tags or {}))
        _write(store, order)
    return order


def latest(store: Store, name: str) -> WorkOrder | None:
    """The last attempt at an order; None where it was never placed."""
    found = [order for order in _orders(store, f"{name}-") if order.name == name]
    return max(found, key=lambda order: order.attempt, default=None)


def open_orders(store: Store) -> list[WorkOrder]:
    """Orders that have not ended, by name."""
    return [order for order in _orders(store) if order.is_open]


def end(store: Store, order: WorkOrder, failures: Mapping[str, str]) -> None:
    """Record that an order has ended, and what of it failed; what was recorded first of it stays."""
    with store.lock("orders"):
        now = latest(store, order.name)
        if now is not None and now.is_open and now.attempt == order.attempt:
            _write(store, replace(order, failures=dict(failures)))


def _orders(store: Store, begins: str = "") -> list[WorkOrder]:
    found = store.documents(FOLDER)
    return [_read(document) for document in found if document.name.startswith(f"{FOLDER}/{begins}")]


def _read(file: Document) -> WorkOrder:
    given = read_json(file)
    return WorkOrder(**given | {"cells": [PlannedTraining(**cell) for cell in given["cells"]]})


def _write(store: Store, order: WorkOrder) -> None:
    store.document(FOLDER, f"{order.identity}.json").write_json(asdict(order))
