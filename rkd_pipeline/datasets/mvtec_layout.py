"""The layout of MVTec AD: ``<category>/{train/good, test/<defect>, ground_truth/<defect>/*_mask.png}``.

Read for MVTec AD itself, for the demo, and for the user's own folders, which may come without ``ground_truth``.
"""

from pathlib import Path

from rkd_pipeline.datasets.listing import mask_of, pictures_in, relative, subfolders
from rkd_pipeline.datasets.pictures import Listing, Picture
from rkd_pipeline.errors import DataError, Problem

GOOD = "good"


def listing(folder: Path, category: str, *, masks: bool = True) -> Listing:
    """All pictures of ``folder/category`` (``folder`` itself where the category is empty).

    ``masks``: a defect picture without one is a problem. Raises ``DataError`` when a part's folder is missing.
    """
    base = folder / category if category else folder
    found = Listing()
    for part in ("train", "test"):
        if not (base / part).is_dir():
            raise DataError(f"{base / part} is not a folder; expected {base / part / GOOD}/* with pictures")
        for kind in subfolders(base / part, folder, found):
            for path in pictures_in(kind, folder, found):
                _add(found, folder, base, part, path, masks)
    if not any(p.part == "train" for p in found.pictures):
        raise DataError(f"{base / 'train' / GOOD} holds no pictures to train on")
    if masks:
        _warn_of_lone_masks(found, base, folder)
    return found


def _add(found: Listing, folder: Path, base: Path, part: str, path: Path, masks: bool) -> None:
    name, defect = relative(path, folder), path.parent.name
    mask = None
    if defect != GOOD and part == "train":
        fix = f"move it to test/{defect}, or to train/{GOOD} if it is normal"
        found.problems.append(Problem(name, "lies in train, where only normal pictures belong", fix))
        return
    if defect != GOOD and masks:
        mask = mask_of(path.stem, base / "ground_truth" / defect)
        if mask is None:
            expected = relative(base / "ground_truth" / defect / f"{path.stem}_mask.png", folder)
            found.problems.append(Problem(name, "shows a defect but has no mask", f"expected {expected}"))
            return
    found.pictures.append(Picture(name, defect != GOOD, defect, part, relative(mask, folder) if mask else None))


def _warn_of_lone_masks(found: Listing, base: Path, folder: Path) -> None:
    used = {p.mask for p in found.pictures}
    present = {relative(p, folder) for p in base.glob("ground_truth/*/*") if p.is_file() and not p.name.startswith(".")}
    lone = sorted(m for m in present - used if f"/{GOOD}/" not in m)
    if lone:
        shown = ", ".join(lone[:10]) + (f" and {len(lone) - 10} more" if len(lone) > 10 else "")
        found.warnings.append(f"{len(lone)} masks belong to no picture: {shown}")
