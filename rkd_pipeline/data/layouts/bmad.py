"""BMAD: ``<set>/{train/good, valid/{good,Ungood}, test/{good,Ungood}}``, three of the sets with ``img`` and ``label``.

In the sets with masks a class holds its images in ``img`` and their masks, of the same names, in ``label``; in the
others the images lie in the class folder. The validation part's normal images join training, as in MVTec LOCO; its
anomalous ones are named and not used: nothing is chosen by labels here, and they are no part of the test.
"""

from pathlib import Path

from rkd_pipeline.data.image_files import ListedImage, Listing
from rkd_pipeline.data.layouts.class_names import IMAGES, MASKS, TEST, TRAIN, VALIDATION, fold, is_good, plain
from rkd_pipeline.data.layouts.listing import (
    NORMAL,
    child,
    class_folders,
    folders_in,
    images_in,
    name_the_rest,
    one_called,
    relative,
)
from rkd_pipeline.data.layouts.litter import entries_of
from rkd_pipeline.errors import DataError, Problem

# Names of a set's folder: in the publisher's README, in copies of it, and in the publisher's single archives.
FOLDERS = {
    "brain": ("Brain", "Brain_AD"),
    "liver": ("Liver", "Liver_AD"),
    "resc": ("RESC", "Retina_RESC", "RetinaRESC_AD"),
    "oct2017": ("OCT2017", "Retina_OCT2017", "RetinaOCT2017_AD"),
    "chest": ("RSNA", "Chest", "Chest_AD"),
    "histopathology": ("camelyon16", "Histopathology", "Histopathology_AD"),
}
UNGOOD = "ungood"
_LABELS = MASKS | {"label", "labels"}
_PARTS = {"train": TRAIN, "valid": VALIDATION, "test": TEST}


def listing(folder: Path, category: str) -> Listing:
    """All images of a set of ``folder`` (of ``folder`` itself where the category is empty) that train or test.

    Raises ``DataError`` where a part is missing, or a class is neither good nor Ungood.
    """
    found, base = Listing(), set_folder(folder, category)
    reasons: dict[Path, str] = {}
    for part, names in _PARTS.items():
        place = one_called(base, names, f"{part} part") if base.is_dir() else None
        if place:
            _add_part(found, folder, part, place, reasons)
        elif part != "valid":
            raise DataError(f"{base / part} is not a folder; expected {base / part / NORMAL}/* with images")
    name_the_rest(found, base, folder, reasons, "it is no image or mask of train, valid or test")
    return found


def set_folder(folder: Path, category: str) -> Path:
    """The folder of a set; raises ``DataError`` where two have names of it."""
    if not category:
        return folder
    found = {place for name in FOLDERS[category] if (place := child(folder, name))}
    if len(found) > 1:
        names = " and ".join(sorted(p.name for p in found))
        raise DataError(f"{folder} holds {names}, each of which could be the set {category}; keep one")
    return found.pop() if found else folder / FOLDERS[category][0]


def looks_like(folder: Path) -> bool:
    """A class is called Ungood, and either it is of the validation part or classes hold ``img``.

    Where masks lie beside the parts, somebody has brought the set into MVTec AD's form; that is read as such.
    """
    if one_called(folder, MASKS, "folder of masks"):
        return False
    places = {part: one_called(folder, names, f"{part} part") for part, names in _PARTS.items() if part != "train"}
    ungood = {
        part: kind
        for part, place in places.items()
        if place
        for kind in folders_in(place)
        if plain(kind.name) == UNGOOD
    }
    return "valid" in ungood or any(one_called(kind, IMAGES, "folder of images") for kind in ungood.values())


def _add_part(found: Listing, root: Path, part: str, place: Path, reasons: dict[Path, str]) -> None:
    for kind in class_folders(place, root, found):
        anomalous = not is_good(kind.name)
        if anomalous and plain(kind.name) != UNGOOD:
            raise DataError(
                f"{kind} is neither good nor Ungood, which are BMAD's classes; rename it, or move it elsewhere"
            )
        if anomalous and part != "test":
            reasons[kind] = f"it is anomalous and in {part}, and only normal images train"
            continue
        inner = one_called(kind, IMAGES, "folder of images")
        images = images_in(inner or kind, root, found)
        labels = one_called(kind, _LABELS, "folder of masks") if inner else None
        masks = _masks(labels) if labels else None
        as_part = "test" if part == "test" else "train"
        for image in images:
            mask = masks.get(fold(image.stem)) if masks and as_part == "test" else None
            if anomalous and masks is not None and mask is None:
                expected = relative((labels or kind) / image.name, root)
                problem = Problem(relative(image, root), "shows a defect but has no mask", f"expected {expected}")
                found.problems.append(problem)
                continue
            name, mask_name = relative(image, root), relative(mask, root) if mask else None
            found.images.append(ListedImage(name, anomalous, kind.name if anomalous else NORMAL, as_part, mask_name))
        if labels:
            reasons[labels] = "these masks belong to no image that tests"
    if part == "train" and not any(p.part == "train" for p in found.images):
        raise DataError(f"{place / NORMAL} holds no images to train on")


def _masks(folder: Path) -> dict[str, Path]:
    return {fold(path.stem): path for path in entries_of(folder) if path.is_file()}
