"""Retinal OCT (Kermany et al. 2018, "OCT2017"): ``train/NORMAL``, ``test`` in four classes, and ``val`` in one mirror.

Two mirrors are in use. One has 1,000 test pictures, 250 of a class; the other keeps 968 of the thousand in ``test``
and 32 in ``val``. Both give the same target: the test part is the thousand, and which mirror it was is recorded.
"""

from hashlib import sha256
from pathlib import Path

from rkd_pipeline.datasets.listing import pictures_in, relative
from rkd_pipeline.datasets.pictures import Listing, Picture
from rkd_pipeline.errors import DataError

NORMAL = "NORMAL"
CLASSES = (NORMAL, "CNV", "DME", "DRUSEN")
HALF = "half"
TRAIN_NORMALS, HALF_NORMALS = 26_315, 13_157
# Kaggle's archive nests the data, and its folder's name ends with a blank.
_NESTED = ("", "OCT2017", "OCT2017 ", "oct2017/OCT2017 ", "OCT2017 /OCT2017 ", "CellData/OCT")


def listing(folder: Path, category: str) -> Listing:
    """Normal training pictures and the test pictures of all four classes; the sick training pictures are not used.

    ``category`` ``half`` keeps a seeded half of the training pictures. Raises ``DataError`` where the layout does not
    fit.
    """
    base = _base(folder)
    found = Listing()
    train = [relative(p, folder) for p in pictures_in(base / "train" / NORMAL, folder, found)]
    if category == HALF:
        train = seeded_half(train)
    found.pictures += [Picture(name, False, "good", "train") for name in train]
    test, held = _classes(base / "test", folder, found), _classes(base / "val", folder, found)
    if len(test) == 1000 or not held:
        found.variant = f"test {len(test)}" + (f"; {len(held)} in val, not used" if held else "")
        found.pictures += test
    else:
        found.variant = f"test {len(test)} and val {len(held)}, together the test part"
        found.pictures += test + held
    return found


def _base(folder: Path) -> Path:
    for nested in _NESTED:
        base = folder / nested
        if (base / "train" / NORMAL).is_dir() and (base / "test").is_dir():
            return base
    raise DataError(
        f"{folder / 'train' / NORMAL} is not a folder; expected train/NORMAL/* and test/<class>/* with the classes "
        f"{', '.join(CLASSES)} (directly in {folder}, or in its folder OCT2017)"
    )


def _classes(folder: Path, root: Path, found: Listing) -> list[Picture]:
    pictures: list[Picture] = []
    for name in CLASSES:
        if (folder / name).is_dir():
            defect = "good" if name == NORMAL else name.lower()
            files = pictures_in(folder / name, root, found)
            pictures += [Picture(relative(path, root), name != NORMAL, defect, "test") for path in files]
    return pictures


def seeded_half(names: list[str]) -> list[str]:
    """Half of the names, rounded down: those whose file name hashes lowest, the same half for every mirror."""
    order = sorted(names, key=lambda name: sha256(f"half {Path(name).name}".encode()).hexdigest())
    return sorted(order[: len(names) // 2])
