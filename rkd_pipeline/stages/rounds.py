"""The records of re-benchmark rounds, as they are read: what each measured, and which levels were accepted."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rkd_pipeline.errors import StoreError
from rkd_pipeline.statistics.regressions import VALUE_COLUMNS
from rkd_pipeline.store.result_store import Store

FOLDER = "rebenchmarks"
PLAN, RECORD, TOLD, REFERENCES = "plan.json", "record.json", "told.json", "references.json"


def records(store: Store) -> list[dict[str, Any]]:
    """All records, in order."""
    return [read_json(p) for p in sorted((store.root / FOLDER).glob(f"*/{RECORD}"))]


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
    file = store.root / FOLDER / REFERENCES
    return {int(number): why for number, why in read_json(file).items()} if file.exists() else {}


def round_file(store: Store, number: int, name: str) -> Path:
    """A file of a round."""
    return store.root / FOLDER / f"{number:04d}" / name


def read_json(file: Path) -> dict[str, Any]:
    """A record. Raises ``StoreError`` where it is damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{file} is damaged ({error}); bring it back from a copy, or move it away") from error
