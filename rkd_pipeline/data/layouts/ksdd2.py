"""KolektorSDD2: ``{train,test}/<number>.png`` and ``<number>_GT.png``; an image is normal where its mask is empty.

So masks are opened already when the files are listed: nothing else says which image shows a defect. The publisher's
training part holds defective images, too. They are named and not used, since training is on normal images.
"""

from functools import lru_cache
from pathlib import Path

from rkd_pipeline.data.image_files import ListedImage, Listing, full_mask, in_parallel
from rkd_pipeline.data.layouts.class_names import TEST, TRAIN, fold
from rkd_pipeline.data.layouts.listing import NORMAL, images_in, is_image, name_the_rest, one_called, relative
from rkd_pipeline.data.layouts.litter import entries_of
from rkd_pipeline.errors import DataError, Problem
from rkd_pipeline.store.hashes import state_of

DEFECT = "defect"
_MASK, _COPY = "_gt", " (copy)"  # folded, as names are compared
_PARTS = {"train": TRAIN, "test": TEST}


def listing(folder: Path, category: str = "") -> Listing:
    """All pairs of image and mask: normal ones of both parts, and the defective ones of the test part.

    ``category`` is the dataset's name and plays no part. Raises ``DataError`` where a part is missing.
    """
    found = Listing()
    reasons: dict[Path, str] = {}
    read: list[Path] = []
    for part, names in _PARTS.items():
        place = one_called(folder, names, f"{part} part") if folder.is_dir() else None
        if place is None:
            raise DataError(
                f"{folder / part} is not a folder; expected {folder / part}/10000.png with 10000_GT.png, ..."
            )
        _add_part(found, folder, part, place, reasons, read)
    if not any(p.part == "train" for p in found.images) and not found.problems:
        raise DataError(f"{folder / 'train'} holds no image with an empty mask to train on")
    name_the_rest(found, folder, folder, reasons, "it is no image or mask of train or test", read)
    return found


def looks_like(folder: Path) -> bool:
    """Both parts hold images directly, and among those of the training part are masks called ``<name>_GT``."""
    places = [one_called(folder, names, f"{part} part") for part, names in _PARTS.items()]
    held = [[p for p in entries_of(place) if not p.is_dir() and is_image(p)] for place in places if place]
    return len(held) == len(_PARTS) and all(held) and any(fold(p.stem).endswith(_MASK) for p in held[0])


def _add_part(found: Listing, root: Path, part: str, place: Path, reasons: dict[Path, str], read: list[Path]) -> None:
    files = images_in(place, root, found)
    twice = _copies(files, root, found)
    reasons |= twice
    masks = {fold(p.stem).removesuffix(_MASK): p for p in files if p not in twice and fold(p.stem).endswith(_MASK)}
    images = [p for p in files if p not in twice and not fold(p.stem).endswith(_MASK)]
    pairs = [(image, mask) for image in images if (mask := masks.pop(fold(image.stem), None))]
    paired = {image for image, _ in pairs}
    found.problems += [
        Problem(
            relative(image, root),
            "has no mask, so nobody knows whether it shows a defect",
            f"expected {relative(image.with_name(f'{image.stem}_GT.png'), root)}",
        )
        for image in images
        if image not in paired
    ]
    reasons |= dict.fromkeys(masks.values(), "these masks belong to no image")
    shown = in_parallel(lambda pair: _shows_defect(pair[1], relative(pair[1], root)), pairs)
    for (image, mask), defective in zip(pairs, shown, strict=True):
        if isinstance(defective, Problem):
            found.problems.append(defective)
            continue
        name, read_mask = relative(image, root), relative(mask, root)
        if not defective:
            found.images.append(ListedImage(name, False, NORMAL, part))
            read.append(mask)
        elif part == "test":
            found.images.append(ListedImage(name, True, DEFECT, part, read_mask))
        else:
            reasons |= dict.fromkeys((image, mask), "it shows a defect, and training is on normal images")


def _shows_defect(mask: Path, name: str) -> bool:
    """The mask is not empty. Raises ``BadImage`` under ``name``."""
    return _judged(mask, name, state_of(mask))


@lru_cache(maxsize=1 << 14)  # listings are made often, and a mask that has not changed need not be opened again
def _judged(mask: Path, name: str, state: object) -> bool:
    return bool(full_mask(mask, name).any())


def _copies(files: list[Path], root: Path, found: Listing) -> dict[Path, str]:
    """Files called ``<name> (copy)`` beside ``<name>``; of another content they are a problem.

    The publisher's archive has a pair of them: ``train/10301 (copy).png`` and ``train/10301_GT (copy).png``.
    """
    by_stem = {fold(p.stem): p for p in files}
    copies = {}
    for path in files:
        stem = fold(path.stem)
        original = by_stem.get(stem.removesuffix(_COPY)) if stem.endswith(_COPY) else None
        if original is None:
            continue
        copies[path] = "it is a copy of the file beside it, of that name"
        if path.read_bytes() != original.read_bytes():
            what = f"is called a copy of {original.name}, but differs from it"
            found.problems.append(Problem(relative(path, root), what, "delete or rename it"))
    return copies
