"""VisA: ``<category>/Data/{Images/{Normal,Anomaly}, Masks/Anomaly}``, and ``split_csv/1cls.csv`` beside the categories.

The table is the official one-class split: columns ``object``, ``split``, ``label``, ``image`` and ``mask``, paths from
the dataset's folder. Masks are label images, of 1 to 9 for kinds of defects: whatever is not 0 is a defect, as the
publisher's ``prepare_data.py`` has it, and as every mask of labels is read here.
"""

from pathlib import Path

import pandas as pd

from rkd_pipeline.data.image_files import ListedImage, Listing
from rkd_pipeline.data.layouts import folder as class_folders_alone
from rkd_pipeline.data.layouts.class_names import fold, is_good
from rkd_pipeline.data.layouts.listing import NORMAL, category_folder, child, name_the_rest, relative, some
from rkd_pipeline.data.layouts.litter import entries_of, files_below
from rkd_pipeline.errors import DataError, Problem

SPLIT = ("split_csv", "1cls.csv")
_SPLIT = "/".join(SPLIT)
COLUMNS = ["object", "split", "label", "image", "mask"]
_ANNOTATIONS = "image_anno.csv"
_RESTORE = "restore it from the dataset's source"


def listing(folder: Path, category: str) -> Listing:
    """All images of ``folder/category`` that the official split names, which is needed.

    Raises ``DataError`` where the table or the category is missing or not as expected.
    """
    base = category_folder(folder, category)
    if not is_category(base):
        raise DataError(f"{base / 'Data' / 'Images' / 'Normal'} is not a folder; expected VisA's layout in {base}")
    table = split_table(folder)
    if table is None:
        raise DataError(
            f"{folder.joinpath(*SPLIT)} does not exist, and {category} is measured on its split; copy the folder "
            f"{SPLIT[0]} from VisA's archive or repository to {folder}, or add {base} as your own target (rkd "
            "add-target): then its images are split here"
        )
    return _listed(base, folder, category, table)


def own_listing(base: Path) -> Listing:
    """A category's folder by itself, names relative to it: the official split where its table lies beside it.

    Without the table no image has a part, and the images are split here. Raises ``DataError`` where the layout does
    not fit.
    """
    table = split_table(base / "..")
    if table is None:
        found = class_folders_alone.listing(child(base, "Data") or base / "Data", base)
        found.variant = f"without {_SPLIT}: not the official split"
        return found
    found = _listed(base, base, base.resolve().name, table)
    found.beside.append(table)
    found.variant = f"split by {_SPLIT}"
    return found


def is_category(base: Path) -> bool:
    """The folder looks like a category of VisA: class folders, one of them normal, in ``Data/Images``."""
    data = child(base, "Data") if base.is_dir() else None
    images = child(data, "Images") if data and data.is_dir() else None
    return bool(images and images.is_dir() and any(is_good(p.name) and p.is_dir() for p in entries_of(images)))


def split_table(folder: Path) -> Path | None:
    """The table of the official split in a dataset's folder; None where there is none."""
    place = child(folder, SPLIT[0])
    return child(place, SPLIT[1]) if place and place.is_dir() else None


def _listed(base: Path, root: Path, category: str, table: Path) -> Listing:
    """What the table says of one category, each file by its name in whatever case."""
    found = Listing()
    files: dict[str, list[Path]] = {}
    for path in files_below(base):
        files.setdefault(fold(f"{category}/{relative(path, base)}"), []).append(path)
    for part, label, image, mask in _rows(table, category):
        added = _image(part, label, _one(image, files), _one(mask, files), root)
        if isinstance(added, Problem):
            found.problems.append(added)
        else:
            found.images.append(added)
    annotations = child(base, _ANNOTATIONS)
    reasons = {annotations: f"labels and masks are those of {_SPLIT}"} if annotations else {}
    name_the_rest(found, base, root, reasons, f"{_SPLIT} does not name it")
    return found


def _rows(table: Path, category: str) -> list[tuple[str, str, str, str]]:
    """Part, label, image and mask of a category's rows.

    Raises ``DataError`` for a table that is another one, or that does not know the category.
    """
    try:
        rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # pandas' ParserError and EmptyDataError are ValueErrors
        raise DataError(f"{table} cannot be read as a table ({error}); {_RESTORE}") from error
    if list(rows.columns) != COLUMNS:
        raise DataError(f"{table}: expected columns {', '.join(COLUMNS)}, found {', '.join(rows.columns)}; {_RESTORE}")
    if not (rows["split"].isin(["train", "test"]).all() and rows["label"].isin(["normal", "anomaly"]).all()):
        raise DataError(f"{table}: expected train or test as split and normal or anomaly as label; {_RESTORE}")
    known = rows["object"].map(fold)
    if not (known == fold(category)).any():
        raise DataError(
            f"{table} names no image of {category}, but of {some(sorted(set(known)))}; give the folder the publisher's "
            f"name, or move it away from {table.parent.name}: then its images are split here"
        )
    return list(rows.loc[known == fold(category), COLUMNS[1:]].itertuples(index=False, name=None))


def _one(name: str, files: dict[str, list[Path]]) -> Path | str | None:
    """The file that a row names, or what is wrong with it; None where the row names none."""
    if not name:
        return None
    paths = files.get(fold(name), [])
    if len(paths) == 1:
        return paths[0]
    return f"{name} is there {len(paths)} times, in names that differ in case" if paths else f"{name} is not there"


def _image(
    part: str, label: str, image: Path | str | None, mask: Path | str | None, root: Path
) -> ListedImage | Problem:
    """One row as an image, or why it cannot be used."""
    if not isinstance(image, Path):
        return Problem(_SPLIT, f"names an image that cannot be used: {image or 'none'}", _RESTORE)
    name, anomalous = relative(image, root), label == "anomaly"
    if anomalous and part == "train":
        return Problem(name, f"is anomalous and trains in {_SPLIT}", "take the table of the one-class split")
    if not anomalous:
        return ListedImage(name, False, NORMAL, part)
    if not isinstance(mask, Path):
        return Problem(name, f"shows a defect but has no mask: {mask or f'{_SPLIT} names none'}", _RESTORE)
    return ListedImage(name, True, image.parent.name, part, relative(mask, root))
