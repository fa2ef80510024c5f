"""A table that lists images: CSV or parquet, columns path and label, and, if wanted, split, mask and defect."""

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from rkd_pipeline.data.image_files import ListedImage, Listing
from rkd_pipeline.data.layouts.class_names import BAD, GOOD, plain
from rkd_pipeline.data.layouts.listing import child, relative, some
from rkd_pipeline.data.layouts.mask_folders import warn_of_shared_masks
from rkd_pipeline.errors import DataError, Problem

SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})
REQUIRED, OPTIONAL = ("path", "label"), ("split", "mask", "defect")
NORMAL_LABELS, ANOMALOUS_LABELS = GOOD | {"0", "false"}, BAD | {"1", "true"}
_TRAIN, _TEST = frozenset({"train", "val", "valid", "validation"}), frozenset({"test"})


def listing(file: Path) -> Listing:
    """The images that a manifest names; paths are relative to the manifest's folder, or absolute.

    Raises ``DataError`` where the table cannot be read or lacks a column; rows that cannot be used become problems.
    """
    table = _read(file)
    split = "split" in table
    found = Listing(variant="with a split" if split else "without a split")
    if unknown := [name for name in table.columns if name not in REQUIRED + OPTIONAL]:
        found.warnings.append(f"columns that are not read: {some(unknown)}; known: {', '.join(REQUIRED + OPTIONAL)}")
    for number, row in enumerate(table.to_dict("records"), start=2):  # as editors count, below the header
        image = _image(row, f"{file.name}, row {number}", file.parent, split)
        if isinstance(image, Problem):
            found.problems.append(image)
        else:
            found.images.append(image)
    if not any(p.part == "test" for p in found.images):
        found.images = [replace(p, part=None) for p in found.images]  # nobody has split what only trains
    warn_of_shared_masks(found)
    return found


def _read(file: Path) -> pd.DataFrame:
    try:
        if file.suffix.lower() == ".parquet":
            table = pd.read_parquet(file)
        else:
            # As text: an image called 007 keeps its zeros. The BOM is what spreadsheets put in front.
            with file.open(encoding="utf-8-sig", newline="") as stream:
                head = stream.read(65536)
                separator = "\t" if file.suffix.lower() == ".tsv" else _separator(head)
                stream.seek(0)
                table = pd.read_csv(stream, sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True)
    except FileNotFoundError:
        raise DataError(f"{file} does not exist; restore it, or add the target again with its new place") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except (ValueError, OSError) as error:  # pandas' and pyarrow's errors are ValueErrors or OSErrors
        raise DataError(
            f"{file} cannot be read as a table ({str(error).strip()}); save it as CSV or parquet"
        ) from error
    table.columns = [str(c).strip().lower() for c in table.columns]
    if missing := [c for c in REQUIRED if c not in table]:
        raise DataError(
            f"{file} lacks the column {' and '.join(missing)}; it has {', '.join(table.columns) or 'none'}. Needed: "
            f"{', '.join(REQUIRED)}; if wanted: {', '.join(OPTIONAL)}"
        )
    if not len(table):
        raise DataError(f"{file} names no images; add a row for each")
    if "split" in table and all(not _text(given) for given in table["split"]):
        table = table.drop(columns="split")  # a column that nobody filled says as little as none
    return table


def _separator(head: str) -> str:
    try:
        return csv.Sniffer().sniff(head.splitlines()[0] if head else "", delimiters=",;\t").delimiter
    except csv.Error:
        return ","


def _text(value: Any) -> str:
    """A cell as text; booleans and whole numbers as people write them, nothing for an empty one."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _label(text: str) -> str:
    """As it is compared: without case and punctuation, and 0.0 or 1.0, as tables of numbers write them, as 0 or 1."""
    number = re.fullmatch(r"([01])[.,]0*", text)
    if number:
        return number[1]
    return plain(text) if any(map(str.isalpha, text)) else text  # -1 is no 1


def _image(row: dict[str, Any], where: str, folder: Path, split: bool) -> ListedImage | Problem:
    name, label = _text(row["path"]), _label(_text(row["label"]))
    if not name:
        return Problem(where, "names no image", "fill in its path, or delete the row")
    path = _existing(name, folder)
    if path is None:
        return Problem(where, f"{name} is not there", f"mend the path; it is read relative to {folder}")
    if label not in NORMAL_LABELS | ANOMALOUS_LABELS:
        return Problem(
            where, f"label {_text(row['label'])!r} is not known", "write good or bad, or 0 or 1; defect names the kind"
        )
    anomalous = label in ANOMALOUS_LABELS
    part = None
    if split:
        given = _text(row["split"]).lower()
        if given not in _TRAIN | _TEST:
            return Problem(where, f"split {given!r} is not known", "write train or test")
        part = "test" if given in _TEST else "train"
        if anomalous and part == "train":
            return Problem(
                where, f"{name} is anomalous but not in the test part", "move it to test: training is on normals"
            )
    mask = _text(row.get("mask", ""))
    if mask:
        mask_path = _existing(mask, folder)
        if mask_path is None:
            return Problem(where, f"mask {mask} is not there", "mend the path, or leave it empty")
        mask = mask_path
    defect = (_text(row.get("defect", "")) or "bad") if anomalous else "good"
    return ListedImage(path, anomalous, defect, part, mask or None)


def _existing(name: str, folder: Path) -> str | None:
    """The name as it opens, with forward slashes; None where there is no such file."""
    for candidate in (name, name.replace("\\", "/")):
        if (folder / candidate).is_file():
            return Path(candidate).as_posix()
    path: Path | None = folder
    for part in Path(name.replace("\\", "/")).parts:  # the same name in another case or Unicode form
        path = child(path, part) if path else None
    return relative(path, folder) if path and path.is_file() and path.is_relative_to(folder) else None
