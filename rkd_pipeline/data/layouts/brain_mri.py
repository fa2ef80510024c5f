"""Brain MRI Images for Brain Tumor Detection (Chakrabarty, Kaggle): two folders, ``no`` and ``yes``."""

from pathlib import Path

from rkd_pipeline.data.image_files import ListedImage, Listing
from rkd_pipeline.data.layouts.listing import child, images_in, name_the_rest, relative
from rkd_pipeline.errors import DataError


def listing(folder: Path, category: str) -> Listing:
    """All images, normal first. Raises ``DataError`` when a class folder is missing.

    Kaggle's archive holds the two folders twice; only those directly under ``folder`` are read.
    """
    found = Listing()
    for name, anomalous in (("no", False), ("yes", True)):
        place = child(folder, name)
        if place is None or not place.is_dir():
            raise DataError(f"{folder / name} is not a folder; expected {category}/no/* and {category}/yes/*")
        files = images_in(place, folder, found)
        found.images += [ListedImage(relative(p, folder), anomalous, "tumour" if anomalous else "good") for p in files]
    name_the_rest(found, folder, folder, {}, "only the folders no and yes are read")
    return found
