"""The simplest layout: one folder of good pictures, and one or more of bad ones, named by their defect; no masks."""

from pathlib import Path

from rkd_pipeline.datasets.listing import pictures_in, relative, subfolders
from rkd_pipeline.datasets.pictures import Listing, Picture
from rkd_pipeline.errors import DataError

GOOD_NAMES = frozenset({"good", "ok", "normal"})
_MASK_NAMES = frozenset({"mask", "masks", "ground_truth", "gt"})


def listing(folder: Path) -> Listing:
    """All pictures of ``good/`` (or ``ok/``, ``normal/``) and of the folders beside it.

    Raises ``DataError`` where there is no good folder, or nothing but it.
    """
    found = Listing()
    classes = subfolders(folder, folder, found)
    good = [c for c in classes if c.name.lower() in GOOD_NAMES]
    bad = [c for c in classes if c not in good]
    masks = [c.name for c in bad if c.name.lower() in _MASK_NAMES]
    if masks:
        raise DataError(
            f"{folder / masks[0]} looks like masks, which this layout has no place for; arrange the pictures as "
            "train/good, test/<defect> and ground_truth/<defect>, or write a manifest with a mask column"
        )
    if len(good) != 1 or not bad:
        names = ", ".join(c.name for c in classes) or "no folders"
        raise DataError(
            f"{folder} holds {names}; expected one folder named {', '.join(sorted(GOOD_NAMES))}, and at least one "
            "beside it with the anomalous pictures (bad/, or one per kind of defect)"
        )
    for kind in classes:
        anomalous = kind not in good
        found.pictures += [
            Picture(relative(path, folder), anomalous, kind.name if anomalous else "good")
            for path in pictures_in(kind, folder, found)
        ]
    return found
