"""The records of re-benchmark rounds, as they are read: what each measured, and which levels were accepted."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from rkd_pipeline.statistics.regressions import VALUE_COLUMNS
from rkd_pipeline.store.document import Document
from rkd_pipeline.store.result_store import Store

FOLDER = "rebenchmarks"
PLAN, RECORD, TOLD, REFERENCES = "plan.json", "record.json", "told.json", "references.json"
_MEND = "bring it back from a copy, or move it away"


def records(store: Store) -> list[dict[str, Any]]:
    """All records, in order."""
    return [read_json(document) for document in documents(store, RECORD)]


def values_of(found: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Every number of every record; columns as in ``VALUE_COLUMNS``."""
    rows = [row for record in found for row in record["values"]]
    numbers = dict.fromkeys(("value", "ci_low", "ci_high"), float) | dict.fromkeys(("round", "repeat", "epochs"), int)
    table = pd.DataFrame(rows, columns=list(VALUE_COLUMNS))
    table = table.assign(epochs=table["epochs"].fillna(0)).astype(numbers)
    # Records of before know their split alone: they count as of the first images that are recorded with that split.
    images = table["images"].astype("string")
    known = images.groupby([table["target"], table["data"]]).transform("first")
    return table.assign(images=images.fillna(known).fillna("").astype(object))


def references(store: Store) -> dict[int, str]:
    """Rounds whose level was accepted, to the reason that was given."""
    found = references_file(store).read_json(_MEND) or {}
    return {int(number): why for number, why in found.items()}


def references_file(store: Store) -> Document:
    """Where accepted levels are recorded."""
    return store.document(FOLDER, REFERENCES)


def round_file(store: Store, number: int, name: str) -> Document:
    """A file of a round."""
    return store.document(FOLDER, f"{number:04d}", name)


def documents(store: Store, name: str) -> list[Document]:
    """The file of that name of every round that has it, in order of the rounds."""
    return [document for document in store.documents(FOLDER) if document.name.endswith(f"/{name}")]


def read_json(document: Document) -> dict[str, Any]:
    """A record that is there. Raises ``StoreError`` where it is damaged."""
    return document.read_json(_MEND)
