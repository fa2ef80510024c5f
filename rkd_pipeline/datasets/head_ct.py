"""Head CT - hemorrhage (Kitamura, Kaggle): numbered pictures, labels in a CSV whose header has a leading blank."""

from pathlib import Path

import pandas as pd

from rkd_pipeline.datasets.pictures import Listing, Picture
from rkd_pipeline.errors import DataError, Problem


def listing(folder: Path, category: str) -> Listing:
    """All pictures in the order of ``labels.csv``. Raises ``DataError`` when it is missing or not as expected."""
    table = folder / "labels.csv"
    if not table.is_file():
        raise DataError(f"{table} does not exist; expected {category}/labels.csv beside {category}/head_ct/")
    try:
        labels = pd.read_csv(table, skipinitialspace=True)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' ParserError and EmptyDataError are ValueErrors
        raise DataError(f"{table} is not a CSV file ({error}); restore it from the dataset's source") from error
    named = list(labels.columns) == ["id", "hemorrhage"]
    if not (named and pd.api.types.is_integer_dtype(labels["id"]) and labels["hemorrhage"].isin([0, 1]).all()):
        raise DataError(f"{table}: expected columns id and hemorrhage (0 or 1), found {list(labels.columns)}")
    found = Listing()
    pictures = "head_ct/head_ct" if (folder / "head_ct" / "head_ct").is_dir() else "head_ct"  # as Kaggle's zip has it
    for number, label in labels.itertuples(index=False):
        picture = Picture(f"{pictures}/{int(number):03d}.png", bool(label), "hemorrhage" if label else "good")
        if (folder / picture.path).is_file():
            found.pictures.append(picture)
        else:
            fix = "restore it from the dataset's source"
            found.problems.append(Problem(picture.path, "is named in labels.csv but is not there", fix))
    return found
