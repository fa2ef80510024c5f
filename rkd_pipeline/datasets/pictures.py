"""Reading pictures: one way from any file to RGB pixels, errors that name the file."""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from rkd_pipeline.errors import DataError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Picture:
    """A picture as a dataset lists it.

    Attributes:
        path: relative to the dataset's folder, with forward slashes; serves as the picture's id.
        anomalous: the label.
        defect: kind of defect, or ``good``.
        part: the publisher's ``train`` or ``test``; None where there is no official split.
        mask: path of the ground-truth mask, relative too.
    """

    path: str
    anomalous: bool
    defect: str
    part: str | None = None
    mask: str | None = None


def read_rgb(path: Path) -> Image.Image:
    """A picture as RGB, upright, whatever its mode; 16-bit grey is scaled to 8. Raises ``DataError``."""
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be decoded ({error}); restore it from the dataset's source") from error
    if upright.mode.startswith("I"):
        upright = Image.fromarray((np.asarray(upright, np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    return upright.convert("RGB")


def pixel_sha256(image: Image.Image) -> str:
    """Hash of the decoded pixels and their arrangement: equal for copies that differ only as files."""
    return hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).hexdigest()


def resized(image: Image.Image, side: int) -> np.ndarray:
    """PIL bilinear (with its antialiasing) to a square, no crop: uint8 ``(side, side, channels)``, or 2-D if grey."""
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def in_parallel(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """``function`` over ``items`` in threads (PIL decodes outside the GIL), in order.

    Every ``DataError`` is collected, and raised as one that lists them all.
    """

    def attempt(item: T) -> R | DataError:
        try:
            return function(item)
        except DataError as error:
            return error

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(attempt, items))
    errors = [str(r) for r in results if isinstance(r, DataError)]
    if errors:
        raise DataError("\n".join(errors))
    return [r for r in results if not isinstance(r, DataError)]
