"""Retinal OCT (Kermany et al. 2018, "OCT2017"): ``train/NORMAL``, ``test`` in four classes, and ``val`` in one mirror.

Two mirrors are in use. One has 1,000 test images, 250 of a class; the other keeps 968 of the thousand in ``test``
and 32 in ``val``. Both give the same target: the test part is the thousand, and which mirror it was is recorded.
"""

from hashlib import sha256
from pathlib import Path

from rkd_pipeline.data.image_files import ListedImage, Listing
from rkd_pipeline.data.layouts.listing import child, images_in, name_the_rest, relative
from rkd_pipeline.errors import DataError

NORMAL = "NORMAL"
CLASSES = (NORMAL, "CNV", "DME", "DRUSEN")
HALF = "half"
TRAIN_NORMALS, HALF_NORMALS = 26_315, 13_157
# Kaggle's archive nests the data, and its folder's name ends with a blank.
_NESTED = ("", "OCT2017", "OCT2017 ", "oct2017/OCT2017 ", "OCT2017 /OCT2017 ", "CellData/OCT")


def listing(folder: Path, category: str) -> Listing:
    """Normal training images and the test images of all four classes; the sick training images are not used.

    ``category`` ``half`` keeps a seeded half of the training images. Raises ``DataError`` where the layout does not
    fit.
    """
    base, train = _base(folder)
    normals = _class(train, NORMAL)
    found = Listing()
    names = [relative(p, folder) for p in images_in(normals, folder, found)]
    chosen = seeded_half(names) if category == HALF else names
    found.images += [ListedImage(name, False, "good", "train") for name in chosen]
    test, val = (child(base, name) or base / name for name in ("test", "val"))
    tested, held = _classes(test, folder, found), _classes(val, folder, found)
    if len(tested) == 1000 or not held:
        found.variant = f"test {len(tested)}" + (f"; {len(held)} in val, not used" if held else "")
        found.images += tested
    else:
        found.variant = f"test {len(tested)} and val {len(held)}, together the test part"
        found.images += tested + held
    reasons = {
        normals: "they are not in the seeded half",
        train: "training is on normal images",
        val: "the test part is complete without it",
    }
    name_the_rest(found, base, folder, reasons, f"only train/{NORMAL} and the classes of test and val are read")
    return found


def _base(folder: Path) -> tuple[Path, Path]:
    """The folder of the parts, and the training part in it."""
    for nested in _NESTED:
        base = folder / nested
        train, test = child(base, "train"), child(base, "test")
        if train and test and _class(train, NORMAL).is_dir():
            return base, train
    raise DataError(
        f"{folder / 'train' / NORMAL} is not a folder; expected train/NORMAL/* and test/<class>/* with the classes "
        f"{', '.join(CLASSES)} (directly in {folder}, or in its folder OCT2017)"
    )


def _class(part: Path, name: str) -> Path:
    return child(part, name) or part / name


def _classes(part: Path, root: Path, found: Listing) -> list[ListedImage]:
    images: list[ListedImage] = []
    for name in CLASSES:
        place = _class(part, name)
        if place.is_dir():
            defect = "good" if name == NORMAL else name.lower()
            files = images_in(place, root, found)
            images += [ListedImage(relative(path, root), name != NORMAL, defect, "test") for path in files]
    return images


def seeded_half(names: list[str]) -> list[str]:
    """Half of the names, rounded down: those whose file name hashes lowest, the same half for every mirror."""
    order = sorted(names, key=lambda name: sha256(f"half {Path(name).name}".encode()).hexdigest())
    return sorted(order[: len(names) // 2])
