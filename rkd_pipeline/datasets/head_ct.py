"""Head CT - hemorrhage (Kitamura, Kaggle): numbered pictures, labels in a CSV whose header has a leading blank."""

from pathlib import Path

import pandas as pd

from rkd_pipeline.datasets.pictures import Picture
from rkd_pipeline.errors import DataError


def pictures(folder: Path, category: str) -> list[Picture]:
    """All pictures in the order of ``labels.csv``. Raises ``DataError`` when that file or a picture is missing."""
    table = folder / "labels.csv"
    if not table.is_file():
        raise DataError(f"{table} does not exist; expected {category}/labels.csv beside {category}/head_ct/")
    labels = pd.read_csv(table, skipinitialspace=True)
    if list(labels.columns) != ["id", "hemorrhage"] or not labels["hemorrhage"].isin([0, 1]).all():
        raise DataError(f"{table}: expected columns id and hemorrhage (0 or 1), found {list(labels.columns)}")
    listed = [
        Picture(f"head_ct/{number:03d}.png", bool(label), "hemorrhage" if label else "good")
        for number, label in labels.itertuples(index=False)
    ]
    missing = [p.path for p in listed if not (folder / p.path).is_file()]
    if missing:
        raise DataError(f"{folder}: labels.csv names {len(missing)} pictures that are not there, first {missing[0]}")
    return listed
