"""The index of a target: one row per image. The pass that makes it decodes every file, once, and keeps the arrays.

What is known after it: hashes, sizes, grey statistics, mask areas, and the images and masks at one side length. Only
other side lengths decode again, and only when somebody asks for them.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rkd_pipeline.data.catalog import Target
from rkd_pipeline.data.image_files import (
    BadImage,
    ListedImage,
    Listing,
    decode,
    full_mask,
    in_parallel,
    pixel_sha256,
    resized,
    resized_mask,
)
from rkd_pipeline.data.layouts.listing import some
from rkd_pipeline.data.near_duplicates import perceptual_hash
from rkd_pipeline.data.prepared_arrays import ArrayFile
from rkd_pipeline.errors import BadFiles, DataError, Problem
from rkd_pipeline.names import printable
from rkd_pipeline.progress import bar

COLUMNS = {
    "image_id": "path relative to the dataset's folder",
    "anomalous": "label",
    "defect": "kind of defect, or good",
    "part": "the publisher's part, train or test; empty where there is no official split",
    "mask": "path of the ground-truth mask; empty where there is none",
    "mode": "PIL mode of the file as stored",
    "width": "pixels, set upright",
    "height": "pixels, set upright",
    "bytes": "file size",
    "file_sha256": "hash of the file",
    "pixel_sha256": "hash of the decoded RGB pixels; equal for copies",
    "mean": "mean grey of the resized image, from 0 to 1",
    "contrast": "standard deviation of its grey",
    "phash": "perceptual hash, 64 bits as hex",
    "mask_area": "share of the image that its mask covers; empty where there is no mask",
}
PIXELS, MASKS = "pictures.npy", "masks.npy"
_TWELVE_BITS, _FOURTEEN_BITS = 16, 64  # above the largest 8-bit value of a 16-bit file that holds so many bits
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as PIL converts


@dataclass
class Index:
    """What a pass over a target's files found.

    Attributes:
        table: columns as in ``COLUMNS``, sorted by ``image_id``; the arrays are in the same order.
        skipped: files left out, because that was allowed.
        warnings: what people should know, and nothing stops at.
        variant: which mirror or layout was found.
    """

    table: pd.DataFrame
    skipped: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    variant: str = ""


@dataclass(frozen=True)
class _Row:
    values: dict[str, Any]
    image: np.ndarray
    mask: np.ndarray | None
    brightest: int | None  # 8-bit value, of a file with 16 bits a channel; None of others
    transparent: bool
    rotated: bool


def index_listing(
    target: Target, folder: Path, listing: Listing, side: int, out: Path, *, skip_bad: bool = False
) -> Index:
    """Decode, hash and resize all images of a listing, in parallel; memory holds a few images at a time.

    Args:
        target: whose images they are.
        folder: the dataset's.
        listing: what it holds.
        side: of the arrays, in pixels.
        out: existing folder; receives ``pictures.npy``, uint8 ``(N, side, side, 3)``, and, where any image has a
            mask, ``masks.npy``, bool ``(N, side, side)``.
        skip_bad: leave out what cannot be used.

    Raises:
        BadFiles: files that cannot be used (all of them, named at once), unless they may be skipped.
        DataError: no image is left.
    """
    problems = list(listing.problems)
    usable, doubled = _without_doubles(listing.images)
    problems += doubled
    rows: list[dict[str, Any]] = []
    oddities = _Oddities()
    with_masks = any(p.mask for p in usable)
    with ExitStack() as stack:
        images = stack.enter_context(ArrayFile(out / PIXELS, (side, side, 3), np.uint8))
        masks = stack.enter_context(ArrayFile(out / MASKS, (side, side), np.bool_)) if with_masks else None
        progress = stack.enter_context(bar(len(usable), f"decode {target.name}", "image", inner=True))
        for result in in_parallel(lambda p: _read(p, folder, side), usable):
            progress.update()
            if isinstance(result, Problem):
                problems.append(result)
                continue
            rows.append(result.values)
            oddities.note(result)
            images.append(result.image)
            if masks is not None:
                masks.append(np.zeros((side, side), bool) if result.mask is None else result.mask)
    if problems and not skip_bad:
        raise BadFiles(f"{target.name} in {folder}", problems, len(listing.images) + len(listing.problems))
    if not rows:
        raise DataError(f"{folder} holds no usable images of {target.name}")
    oddities.refuse_shallow(target.name)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return Index(table, problems, listing.warnings + _warnings(table) + oddities.warnings(), listing.variant)


@dataclass
class _Oddities:
    """What files have that their 8-bit RGB pixels do not show: depth, transparency, a wish to be rotated."""

    deep: dict[str, int] = field(default_factory=dict)
    transparent: list[str] = field(default_factory=list)
    rotated: list[str] = field(default_factory=list)

    def note(self, row: _Row) -> None:
        name = row.values["image_id"]
        if row.brightest is not None:
            self.deep[name] = row.brightest
        if row.transparent:
            self.transparent.append(name)
        if row.rotated and row.mask is not None:
            self.rotated.append(name)

    def refuse_shallow(self, target: str) -> None:
        """Raises ``DataError`` where files of 16 bits hold 12 or fewer: of 256 grey levels 16 would be left."""
        if self.deep and max(self.deep.values()) < _TWELVE_BITS:
            raise DataError(
                f"{target}: {len(self.deep)} images have 16 bits a channel, and none of them a value above 4095: they "
                "hold 12 bits or fewer, and scaled to 8 by 1/256 at most 16 grey levels would be left. Multiply all "
                f"their pixels by 16 (for 12 bits; by 64 for 10) and save them with 16 bits: {some(self.deep)}"
            )

    def warnings(self) -> list[str]:
        dim = [name for name, brightest in self.deep.items() if brightest < _TWELVE_BITS]
        fourteen = bool(self.deep) and max(self.deep.values()) < _FOURTEEN_BITS
        said = [
            (dim, "16-bit images have no value above 4095, while others have: at most 16 of 256 grey levels are left"),
            (
                list(self.deep) if fourteen else [],
                "16-bit images have no value above 16383, so that at most 64 of 256 grey levels are left; if they hold "
                "14 bits, multiply all their pixels by 4",
            ),
            (self.transparent, "images have transparent parts; the colour beneath is used"),
            (
                self.rotated,
                "images with a mask are rotated upright, as their EXIF says; see that their masks were drawn upright",
            ),
        ]
        return [f"{len(names)} {what}: {some(names)}" for names, what in said if names]


def _without_doubles(images: Sequence[ListedImage]) -> tuple[list[ListedImage], list[Problem]]:
    """Images sorted by id, each once; an id that is listed twice is a problem, since its label may differ.

    So is a name that no table can hold.
    """
    unique: dict[str, ListedImage] = {}
    doubled = []
    for image in sorted(images, key=lambda p: p.path):
        if any(name != printable(name) for name in (image.path, image.mask or "")):
            doubled.append(Problem(printable(image.path), "its name, or its mask's, is no UTF-8 text", "rename it"))
            continue
        if image.path in unique:
            doubled.append(Problem(image.path, "is listed more than once", "list it once"))
        unique.setdefault(image.path, image)
    return list(unique.values()), doubled


def _read(image: ListedImage, folder: Path, side: int) -> _Row:
    decoded = decode(folder / image.path, image.path)
    pixels = decoded.pixels
    small = resized(pixels, side)
    grey = small.astype(np.float32) @ _GREY
    mask = None if image.mask is None else _mask_of(image, folder, pixels.size)
    values = {
        "image_id": image.path,
        "anomalous": image.anomalous,
        "defect": image.defect,
        "part": image.part or "",
        "mask": image.mask or "",
        "mode": decoded.mode,
        "width": pixels.width,
        "height": pixels.height,
        "bytes": decoded.file_bytes,
        "file_sha256": decoded.file_sha256,
        "pixel_sha256": pixel_sha256(pixels),
        "mean": float(grey.mean()) / 255,
        "contrast": float(grey.std()) / 255,
        "phash": perceptual_hash(grey.round().astype(np.uint8)),
        "mask_area": None if mask is None else np.count_nonzero(mask) / mask.size,
    }
    brightest = int(np.asarray(pixels).max()) if decoded.deep else None
    at_side = None if mask is None else resized_mask(mask, side)
    return _Row(values, small, at_side, brightest, decoded.transparent, decoded.rotated)


def _mask_of(image: ListedImage, folder: Path, size: tuple[int, int]) -> np.ndarray:
    """An image's mask at full size, checked against the image."""
    name = str(image.mask)
    mask = full_mask(folder / name, name)
    if mask.shape != (size[1], size[0]):
        raise BadImage(
            Problem(
                name,
                f"the mask has {mask.shape[1]}x{mask.shape[0]} pixels, its image {image.path} {size[0]}x{size[1]}",
                "save the mask at the image's size",
            )
        )
    if mask.any() and not image.anomalous:
        raise BadImage(
            Problem(image.path, f"is labelled good, but its mask {name} shows a defect", "mend the label or the mask")
        )
    return mask


def _warnings(table: pd.DataFrame) -> list[str]:
    warnings = []
    defects = table[table["anomalous"]] if (table["mask"] != "").any() else table.head(0)
    for what, which in (
        ("no mask, though others have one: they leave the pixel metrics", defects["mask"] == ""),
        ("an empty mask: they leave the pixel metrics", defects["mask_area"] == 0),
        ("a mask that covers more than half of the image; are black and white swapped?", defects["mask_area"] > 0.5),
    ):
        if which.any():
            warnings.append(f"{int(which.sum())} defect images have {what}: {some(defects.loc[which, 'image_id'])}")
    return warnings


def check_counts(target: Target, index: pd.DataFrame, skipped: int = 0) -> None:
    """Raises ``DataError`` where the index does not hold the official number of images, in all and in the test part.

    ``skipped`` images may be missing, since they were left out on purpose.
    """
    found = (int((~index["anomalous"]).sum()), int(index["anomalous"].sum()))
    checks = [("", found, target.counts)]
    if target.test is not None:
        test = index[index["part"] == "test"]
        in_test = (int((~test["anomalous"]).sum()), int(test["anomalous"].sum()))
        checks.append((" in its test part", in_test, target.test))
    for where, have, official in checks:
        if official is None or have == official:
            continue
        if all(0 <= o - h <= skipped for h, o in zip(have, official, strict=True)):
            continue
        raise DataError(
            f"{target.name} has {have[0]} normal and {have[1]} anomalous images{where}; officially {official[0]} and "
            f"{official[1]}. Remove what does not belong, or get the dataset again"
        )
