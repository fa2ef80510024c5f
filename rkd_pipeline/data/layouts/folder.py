"""The simplest layout: a folder of good images, and, where there are any, folders of bad ones, named by their defect.

Masks may lie beside them, as ``masks/<defect>/<name>.png``. Good images alone train a model that nobody can measure.
VisA keeps classes and masks apart: ``Images/{Normal,Anomaly}`` and ``Masks/Anomaly``.
"""

from pathlib import Path

from rkd_pipeline.data.image_files import ListedImage, Listing
from rkd_pipeline.data.layouts.class_names import GOOD, GOOD_SHOWN, IMAGES, MASKS, is_good
from rkd_pipeline.data.layouts.listing import NORMAL, class_folders, images_in, name_the_rest, one_called, relative
from rkd_pipeline.data.layouts.mask_folders import MaskFolder, lone_masks, warn_of_shared_masks
from rkd_pipeline.errors import DataError


def listing(folder: Path, root: Path | None = None) -> Listing:
    """All images of ``good/`` (or ``ok/``, ``normal/``, ...) and of the folders beside it.

    Args:
        folder: of the class folders, or of ``Images`` and ``Masks``.
        root: what names are relative to, and whatever lies under it and is not used is named; default: ``folder``.

    Raises ``DataError`` where there is no good folder, or more than one.
    """
    found, root = Listing(), root or folder
    base = images_folder(folder)
    classes = class_folders(base, root, found)
    if not any(is_good(kind.name) for kind in classes):
        names = ", ".join(kind.name for kind in classes) or "no folders"
        raise DataError(
            f"{base} holds {names}; expected one folder named {GOOD_SHOWN}, and beside it the anomalous "
            "images, if there are any (bad/, or one folder per kind of defect)"
        )
    place = one_called(folder, MASKS, "folder of masks")
    masks = MaskFolder(place, root) if place else None
    for kind in classes:
        anomalous = not is_good(kind.name)
        for image in images_in(kind, root, found):
            mask = masks.of(image, found) if masks else None
            if mask or not (masks and anomalous):
                defect = kind.name if anomalous else NORMAL
                found.images.append(ListedImage(relative(image, root), anomalous, defect, None, mask))
    reasons = lone_masks(masks, found) if masks else {}
    warn_of_shared_masks(found)
    if masks is None and base == root and (beside := one_called(folder.parent, MASKS, "folder of masks")):
        found.warnings.append(f"{beside} beside it looks like masks, and is not used; add {folder.parent} for them")
    name_the_rest(found, root, root, reasons, "it is in no class folder")
    return found


def images_folder(folder: Path) -> Path:
    """Where the class folders lie: ``folder``, or its only folder of images where that holds a good one."""
    inner = one_called(folder, IMAGES, "folder of images")
    return inner if inner and one_called(inner, GOOD, "good images") else folder
