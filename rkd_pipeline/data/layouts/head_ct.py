"""Head CT - hemorrhage (Kitamura, Kaggle): numbered images, labels in a CSV whose header has a leading blank."""

from pathlib import Path

import pandas as pd

from rkd_pipeline.data.image_files import ListedImage, Listing
from rkd_pipeline.data.layouts.class_names import fold
from rkd_pipeline.data.layouts.listing import child, name_the_rest, relative
from rkd_pipeline.data.layouts.litter import entries_of
from rkd_pipeline.errors import DataError, Problem


def listing(folder: Path, category: str) -> Listing:
    """All images in the order of ``labels.csv``. Raises ``DataError`` when it is missing or not as expected."""
    table = child(folder, "labels.csv")
    if table is None:
        raise DataError(
            f"{folder / 'labels.csv'} does not exist; expected {category}/labels.csv beside {category}/head_ct/"
        )
    try:
        labels = pd.read_csv(table, skipinitialspace=True)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' ParserError and EmptyDataError are ValueErrors
        raise DataError(f"{table} is not a CSV file ({error}); restore it from the dataset's source") from error
    named = list(labels.columns) == ["id", "hemorrhage"]
    if not (named and pd.api.types.is_integer_dtype(labels["id"]) and labels["hemorrhage"].isin([0, 1]).all()):
        raise DataError(f"{table}: expected columns id and hemorrhage (0 or 1), found {list(labels.columns)}")
    found = Listing()
    images = _images(folder)
    there = {fold(p.name): p for p in entries_of(images)}
    for number, label in labels.itertuples(index=False):
        file = there.get(f"{int(number):03d}.png", images / f"{int(number):03d}.png")
        image = ListedImage(relative(file, folder), bool(label), "hemorrhage" if label else "good")
        if file.is_file():
            found.images.append(image)
        else:
            fix = "restore it from the dataset's source"
            found.problems.append(Problem(image.path, "is named in labels.csv but is not there", fix))
    name_the_rest(found, folder, folder, {}, "labels.csv does not name it", read=[table])
    return found


def _images(folder: Path) -> Path:
    """``head_ct``, or ``head_ct/head_ct`` as in Kaggle's archive."""
    outer = child(folder, "head_ct") or folder / "head_ct"
    return child(outer, "head_ct") or outer
