"""DAGM 2007: ``Class<n>/{Train,Test}/*.PNG``, and in each part ``Label/Labels.txt`` with ``Label/*_label.PNG``.

``Labels.txt`` says which image shows a defect: lines of five fields between tabs, of which the second is 0 or 1, the
third the image and the fifth its mask, or 0. Both parts hold defective images; those of the training part are named
and not used, since training is on normal images.
"""

from pathlib import Path

from rkd_pipeline.data.image_files import ListedImage, Listing
from rkd_pipeline.data.layouts.class_names import TEST, TRAIN, fold
from rkd_pipeline.data.layouts.listing import NORMAL, category_folder, child, name_the_rest, one_called, relative
from rkd_pipeline.data.layouts.litter import entries_of
from rkd_pipeline.errors import DataError, Problem

DEFECT = "defect"
_PARTS = {"train": TRAIN, "test": TEST}
_FIELDS = 5
_RESTORE = "restore it from the dataset's source"


def listing(folder: Path, category: str) -> Listing:
    """The normal images of both parts of ``folder/category``, and the defective ones of the test part.

    Raises ``DataError`` where a part or its table is missing or not as expected.
    """
    found, base = Listing(), _base(category_folder(folder, category))
    reasons: dict[Path, str] = {}
    tables = []
    for part, names in _PARTS.items():
        place = one_called(base, names, f"{part} part") if base.is_dir() else None
        table = labels_of(place) if place else None
        if place is None or table is None:
            missing = base / part.capitalize() if place is None else place / "Label" / "Labels.txt"
            raise DataError(f"{missing} does not exist, which says what the images of {base.name} are; {_RESTORE}")
        tables.append(table)
        _add_part(found, folder, part, place, table, reasons)
    name_the_rest(found, category_folder(folder, category), folder, reasons, "Labels.txt does not name it", tables)
    return found


def looks_like(folder: Path) -> bool:
    """A part of the folder has ``Label/Labels.txt``."""
    base = _base(folder)
    places = [one_called(base, names, f"{part} part") for part, names in _PARTS.items()]
    return any(place and labels_of(place) for place in places)


def labels_of(part: Path) -> Path | None:
    """The table of a part; None where there is none."""
    label = child(part, "Label")
    return child(label, "Labels.txt") if label and label.is_dir() else None


def _base(folder: Path) -> Path:
    """``Class1``, or ``Class1/Class1`` as some unpack it."""
    inner = child(folder, folder.name) if folder.is_dir() else None
    return inner if inner and inner.is_dir() else folder


def _add_part(found: Listing, root: Path, part: str, place: Path, table: Path, reasons: dict[Path, str]) -> None:
    images = {fold(p.name): p for p in entries_of(place) if not p.is_dir()}
    masks = {fold(p.name): p for p in entries_of(table.parent) if p != table}
    for defective, image_name, mask_name in _rows(table):
        image = images.get(fold(image_name))
        mask = masks.get(fold(mask_name))
        if image is None:
            missing = Problem(relative(place / image_name, root), "is named in Labels.txt but is not there", _RESTORE)
            found.problems.append(missing)
        elif not defective:
            found.images.append(ListedImage(relative(image, root), False, NORMAL, part))
        elif part == "train":
            unused = [image, mask] if mask else [image]
            reasons |= dict.fromkeys(unused, "it shows a defect, and training is on normal images")
        elif mask is None:
            expected = relative(table.parent / f"{image.stem}_label.PNG", root)
            found.problems.append(
                Problem(relative(image, root), "shows a defect but has no mask", f"expected {expected}")
            )
        else:
            found.images.append(ListedImage(relative(image, root), True, DEFECT, part, relative(mask, root)))


def _rows(table: Path) -> list[tuple[bool, str, str]]:
    """Defective or not, the image's and the mask's file name; a line of one field is a heading."""
    try:
        lines = [line.split("\t") for line in table.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{table} cannot be read ({error}); {_RESTORE}") from error
    rows = [[field.strip() for field in line] for line in lines if len(line) > 1]
    for number, row in enumerate(rows, start=1):
        named = row[_FIELDS - 1] not in ("", "0") if len(row) == _FIELDS else None
        if named is None or row[1] not in ("0", "1") or (row[1] == "1") != named:
            raise DataError(
                f"{table}, row {number}: expected number, 0 or 1, image, a field and mask (0 where there is no "
                f"defect), found {row}; {_RESTORE}"
            )
    return [(row[1] == "1", row[2], row[_FIELDS - 1]) for row in rows]
