"""The layout of MVTec AD: ``<category>/{train/good, test/<defect>, ground_truth/<defect>/*_mask.png}``, and relatives.

Read for MVTec AD itself, for the demo, and for the user's own folders, which may come without masks, or with normal
images alone. Relatives are what other publishers make of it: MVTec LOCO (``validation/good``, a folder of masks per
image), MVTec AD 2 (``test_public`` with its masks inside, ``test_private``), BTAD (``ok`` and ``ko``), ``Train`` and
``Test``.
"""

from dataclasses import replace
from pathlib import Path

from rkd_pipeline.data.image_files import ListedImage, Listing
from rkd_pipeline.data.layouts.class_names import BAD, MASKS, TEST, TRAIN, VALIDATION, WITHOUT_LABELS, is_good, plain
from rkd_pipeline.data.layouts.listing import (
    NORMAL,
    category_folder,
    child,
    class_folders,
    folders_in,
    images_in,
    is_image,
    name_the_rest,
    one_called,
    relative,
)
from rkd_pipeline.data.layouts.litter import files_below
from rkd_pipeline.data.layouts.mask_folders import MaskFolder, lone_masks, warn_of_shared_masks
from rkd_pipeline.errors import DataError, Problem

_LOCO_SATURATION = "defects_config.json"
_PARTS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


def listing(folder: Path, category: str, *, complete: bool = True) -> Listing:
    """All images of ``folder/category`` (``folder`` itself where the category is empty).

    Validation images are normal ones that the publisher set aside for training: they join it, since validation parts
    are drawn here.

    Args:
        folder: the dataset's.
        category: a folder in it, or empty.
        complete: a test part and masks must be there. Otherwise masks are used where there are any, and without a test
            part no image has a part, since nobody has split them.

    Raises ``DataError`` when a part's folder is missing, or where it is not clear what a folder is.
    """
    base = category_folder(folder, category)
    found = Listing()
    parts = _parts(base, complete)
    reasons = _left_out(base, parts)
    masks = _masks(base, parts.get("test"), folder, complete)
    for part, place in parts.items():
        _add_part(found, folder, part, place, masks)
    if "test" not in parts:
        found.images = [replace(image, part=None) for image in found.images]
    if masks:
        reasons |= lone_masks(masks, found)
        warn_of_shared_masks(found)
    name_the_rest(found, base, folder, reasons, "it is no image or mask of train, validation or test")
    return found


def _parts(base: Path, complete: bool) -> dict[str, Path]:
    found = {part: one_called(base, names, f"{part} part") for part, names in _PARTS.items()} if base.is_dir() else {}
    parts = {part: place for part, place in found.items() if place}
    for part in ("train", "test") if complete else ("train",):
        if part not in parts:
            raise DataError(f"{base / part} is not a folder; expected {base / part / NORMAL}/* with images")
    return parts


def _left_out(base: Path, parts: dict[str, Path]) -> dict[Path, str]:
    """Why folders beside the parts are not used. Raises ``DataError`` for one that looks like a class or a part."""
    reasons = {}
    if saturation := child(base, _LOCO_SATURATION):
        reasons[saturation] = "its saturation thresholds are for sPRO, which is not computed here"
    for place in folders_in(base):
        name = plain(place.name)
        if place in parts.values() or name in MASKS:
            continue
        if name in WITHOUT_LABELS:
            reasons[place] = "the publisher keeps its labels to himself"
        elif is_good(place.name) or name in BAD or ("test" not in parts and any(map(is_image, files_below(place)))):
            raise DataError(
                f"{place} lies beside {parts['train'].name}/, so it is not clear whether it trains or tests; move it "
                f"into {parts['train']} or {parts.get('test', base / 'test')}, or out of {base}"
            )
    return reasons


def _masks(base: Path, test: Path | None, root: Path, complete: bool) -> MaskFolder | None:
    """The folder of masks beside the parts, or, as in MVTec AD 2, in the test part."""
    places = [place for place in (base, test) if place]
    found = [masks for place in places if (masks := one_called(place, MASKS, "folder of masks"))]
    if len(found) > 1:
        raise DataError(f"{found[0]} and {found[1]} could both be the masks; keep one")
    if not found and not complete:
        return None
    return MaskFolder(found[0] if found else base / "ground_truth", root)


def _add_part(found: Listing, root: Path, part: str, place: Path, masks: MaskFolder | None) -> None:
    kinds = class_folders(place, root, found)
    if part != "test" and kinds and not any(is_good(kind.name) for kind in kinds):
        names = ", ".join(kind.name for kind in kinds)
        raise DataError(f"{place} holds {names}, but only normal images belong there; name their folder {NORMAL}")
    for kind in kinds:
        images = images_in(kind, root, found)
        if is_good(kind.name):
            as_part = "test" if part == "test" else "train"
            given = masks if part == "test" else None
            found.images += [
                ListedImage(relative(image, root), False, NORMAL, as_part, given.of(image, found) if given else None)
                for image in images
            ]
        elif part == "test":
            for image in images:
                mask = masks.of(image, found) if masks else None
                if mask or not masks:
                    found.images.append(ListedImage(relative(image, root), True, kind.name, part, mask))
        else:
            fix = f"move it to test/{kind.name}, or to {part}/{NORMAL} if it is normal"
            found.problems += [
                Problem(relative(image, root), f"lies in {part}, where only normal images belong", fix)
                for image in images
            ]
    if part == "train" and not any(p.part == "train" for p in found.images):
        raise DataError(f"{place / NORMAL} holds no images to train on")
