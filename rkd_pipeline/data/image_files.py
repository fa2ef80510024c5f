"""Reading images: one way from any file to RGB pixels, errors that name the file and the fix."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps

from rkd_pipeline.data.layouts.litter import entries_of
from rkd_pipeline.errors import DataError, Problem

T = TypeVar("T")
R = TypeVar("R")

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2"})
# Line-scan cameras make 300 megapixels; decoded as RGB, 400 take 1.2 GB. What claims more is a mistake or a bomb.
MAX_PIXELS = 400_000_000
Image.MAX_IMAGE_PIXELS = 2 * MAX_PIXELS  # Pillow warns above its own limit; ours is checked first
_MANY_FRAMES = frozenset({"GIF", "TIFF", "WEBP", "PNG"})  # phones' MPO holds a preview as a second frame: harmless
_CACHED_PIXELS = 2**15  # of a buffer that stays in a core's cache
_RESTORE = "restore it from the dataset's source"


@dataclass(frozen=True)
class ListedImage:
    """An image as a dataset lists it.

    Attributes:
        path: relative to the dataset's folder, with forward slashes; serves as the image's id.
        anomalous: the label.
        defect: kind of defect, or ``good``.
        part: the publisher's ``train`` or ``test``; None where there is no official split.
        mask: path of the ground-truth mask, or of a folder of masks that are merged into one; relative too.
    """

    path: str
    anomalous: bool
    defect: str
    part: str | None = None
    mask: str | None = None


@dataclass
class Listing:
    """What a dataset's folder holds, before any file is opened.

    Attributes:
        images: the usable ones.
        problems: entries that cannot be used, each with the fix.
        warnings: what people should know, and nothing stops at.
        variant: which of several layouts or mirrors was found; empty where there is one.
        beside: files outside of the target's own folder that decided something, such as a table of all categories.
    """

    images: list[ListedImage] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    variant: str = ""
    beside: list[Path] = field(default_factory=list)


class BadImage(DataError):
    """A file that is no usable image."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(str(problem))


@dataclass(frozen=True)
class Decoded:
    """An image in memory, and what its file was like.

    Attributes:
        pixels: grey (mode L) where the file is, a third of the work of everything after; else RGB.
        mode: PIL's, of the file as stored.
        file_bytes: its size.
        file_sha256: its hash.
        deep: it has 16 bits or more a channel, of which ``pixels`` keep the upper 8.
        transparent: parts of it are transparent; ``pixels`` hold the colour beneath.
        rotated: the file asks to be rotated, and ``pixels`` are.
    """

    pixels: Image.Image
    mode: str
    file_bytes: int
    file_sha256: str
    deep: bool = False
    transparent: bool = False
    rotated: bool = False


def decode(path: Path, name: str | None = None) -> Decoded:
    """An image as RGB or grey, upright, whatever its mode; 16-bit grey is scaled to 8, transparency is dropped.

    Reads the file once, for pixels and hash together. Raises ``BadImage`` under ``name`` (default: the path).
    """
    name = name or str(path)
    image, content, halved = _opened(path, name)
    mode = image.mode
    upright = _eight_bits(image, name) if mode.startswith("I") else image
    pixels = upright if upright.mode in ("L", "RGB") else upright.convert("RGB")
    return Decoded(
        pixels,
        mode,
        len(content),
        hashlib.sha256(content).hexdigest(),
        deep=halved or mode.startswith("I"),
        transparent=not _opaque(image).all() if _has_transparency(image) else False,
        rotated=_is_turned(content),
    )


def _opened(path: Path, name: str) -> tuple[Image.Image, bytes, bool]:
    """A file's pixels as stored, upright; its bytes; and whether Pillow halved channels of 16 bits to 8."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BadImage(Problem(name, "the file does not exist", _RESTORE)) from None
    except OSError as error:
        raise BadImage(
            Problem(name, f"cannot be read ({error.strerror})", "give read permission, or copy it")
        ) from error
    if not content:
        raise BadImage(Problem(name, "the file is empty", _RESTORE))
    try:
        with Image.open(BytesIO(content)) as image:
            _refuse_unfit(image, name)
            halved = _has_sixteen_bit_channels(image)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
    except BadImage:
        raise
    except Image.DecompressionBombError:
        raise BadImage(_too_large(name)) from None
    except Exception as error:  # Pillow's plugins raise OSError, ValueError, SyntaxError, struct.error, zlib.error, ...
        reason = str(error).split("<")[0].strip() or type(error).__name__  # without "<_io.BytesIO object at ...>"
        raise BadImage(Problem(name, f"cannot be decoded ({reason})", _RESTORE)) from error
    return image, content, halved


def _has_sixteen_bit_channels(image: Image.Image) -> bool:
    """Several channels of 16 bits: Pillow keeps the upper 8 of each, so that small values become 0."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return len(image.getbands()) > 1 and ";16" in str(raw_mode)


def _is_turned(content: bytes) -> bool:
    """The file asks to be rotated or mirrored when it is shown (EXIF's orientation, 1 where it is upright)."""
    with Image.open(BytesIO(content)) as image:
        return image.getexif().get(ExifTags.Base.Orientation, 1) != 1


def _has_transparency(image: Image.Image) -> bool:
    return image.has_transparency_data and not image.mode.startswith("I")


def _opaque(image: Image.Image) -> np.ndarray:
    """Where an image with transparency is at least half opaque, bool ``(H, W)``."""
    return np.asarray(image.convert("RGBA").getchannel("A")) >= 128


def _refuse_unfit(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(_too_large(name))
    if image.mode == "F":
        raise BadImage(
            Problem(name, "holds floating-point pixels, whose range is not known", "save it with 8 or 16 bits a pixel")
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format in _MANY_FRAMES:
        raise BadImage(Problem(name, f"holds {frames} images", "save the one that is meant as a file of its own"))


def _too_large(name: str) -> Problem:
    return Problem(name, f"has more than {MAX_PIXELS // 1_000_000} megapixels", "scale it down or cut it into tiles")


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise BadImage(
            Problem(
                name, f"has pixel values from {pixels.min()} to {pixels.max()}", "save it with 8 or 16 bits a pixel"
            )
        )
    return Image.fromarray((pixels >> 8).astype(np.uint8))


def read_rgb(path: Path) -> Image.Image:
    """The pixels of ``decode`` alone."""
    return decode(path).pixels.convert("RGB")


def pixel_sha256(image: Image.Image) -> str:
    """Hash of the RGB pixels and their arrangement: equal for copies that differ only as files, grey ones too."""
    digest = hashlib.sha256(f"RGB{image.size}".encode())
    if image.mode == "L":
        for rows in _as_rgb(np.asarray(image)):
            digest.update(rows.data)
    else:
        digest.update(image.tobytes())
    return digest.hexdigest()


def _as_rgb(grey: np.ndarray) -> Iterator[np.ndarray]:
    """A grey image as RGB, some rows at a time in a buffer that stays cached: 2.5 times faster than at once."""
    height, width = grey.shape
    at_once = max(1, _CACHED_PIXELS // max(1, width))
    buffer = np.empty((at_once, width, 3), np.uint8)
    for start in range(0, height, at_once):
        rows = grey[start : start + at_once]
        for channel in range(3):
            buffer[: len(rows), :, channel] = rows
        yield buffer[: len(rows)]


def resized(image: Image.Image, side: int) -> np.ndarray:
    """PIL bilinear (with its antialiasing) to a square, no crop: uint8 ``(side, side, 3)`` of a grey or RGB image."""
    return np.asarray(_bilinear(image, side).convert("RGB"))


def _bilinear(image: Image.Image, side: int) -> Image.Image:
    return image.resize((side, side), Image.Resampling.BILINEAR)


# The darkest colours that label masks use have a channel of 64 (PASCAL VOC's palette); JPEG's noise stays below half.
_BLACK, _COLOURED = 32, 64
MASK_RULE = (
    "defect where the mask is at least half white (in masks of labels below 128, of colours, and of 16 bits: not 0; "
    "on a transparent ground: the ink); resized in 8 bits, at least half covered"
)


def full_mask(path: Path, name: str | None = None) -> np.ndarray:
    """A ground-truth mask at its own size, bool ``(H, W)``. Raises ``BadImage``.

    White on black at half of white, so that JPEG noise and soft edges add nothing; files of class labels (0, 1, 2,
    ...) wherever there is a label. Masks of 16 or 32 bits a pixel are files of labels: scaled to 8 bits, a label of 1
    or 255 would be gone. Coloured labels are a defect wherever they are not black. On a transparent ground the ink is
    the defect. A folder's masks are merged into one.
    """
    name = name or str(path)
    if path.is_dir():
        return _merged_mask(path, name)
    image, _, halved = _opened(path, name)
    if image.mode.startswith("I"):
        return np.asarray(image) != 0
    inked = _ink(image, name) if _has_transparency(image) else _coloured_labels(image)
    if inked is not None:
        return inked
    grey = np.asarray(image if image.mode == "L" else image.convert("RGB").convert("L"))
    if halved and not grey.any():
        raise BadImage(
            Problem(name, "is a mask in colours of 16 bits, of which only the upper 8 can be read, and those are all 0",
                    "save it with one channel of 8 or 16 bits")
        )  # fmt: skip
    return grey >= 128 if grey.max(initial=0) >= 128 else grey > 0


def _merged_mask(folder: Path, name: str) -> np.ndarray:
    """The union of a folder's masks: MVTec LOCO has one for each defect of an image."""
    masks: list[np.ndarray] = []
    for path in entries_of(folder):
        part = f"{name}/{path.name}"
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise BadImage(Problem(part, "lies in a folder of masks and is none", "move it elsewhere"))
        masks.append(full_mask(path, part))
        if masks[-1].shape != masks[0].shape:
            raise BadImage(Problem(part, "differs in size from the masks beside it", "save all at the image's size"))
    if not masks:
        raise BadImage(Problem(name, "is a folder of masks without a mask", "put one in, or delete the folder"))
    return np.logical_or.reduce(masks)


def _ink(image: Image.Image, name: str) -> np.ndarray | None:
    """A mask drawn on a transparent ground; None where it is opaque. Raises ``BadImage`` where colour contradicts."""
    opaque = _opaque(image)
    black = np.asarray(image.convert("RGB")).max(axis=2) < _BLACK
    if opaque.all():
        return None
    drawn = black[opaque] if opaque.any() else black
    if drawn.all() or not drawn.any():
        return opaque
    raise BadImage(
        Problem(
            name,
            "has transparency, and beside it black and other colours, so that it is not clear which is the defect",
            "save it without transparency, white where the defect is and black elsewhere",
        )
    )


def _coloured_labels(image: Image.Image) -> np.ndarray | None:
    """Where a mask of coloured labels is not black; None where it has no colours."""
    if image.mode in ("1", "L") or image.mode.startswith("I"):
        return None
    rgb = np.asarray(image.convert("RGB"))
    brightest = rgb.max(axis=2)
    return brightest >= _BLACK if (brightest - rgb.min(axis=2)).max(initial=0) >= _COLOURED else None


def resized_mask(mask: np.ndarray, side: int) -> np.ndarray:
    """bool ``(side, side)``: RD4AD's way, bilinear in 8 bits and then above half of white.

    Half of white is 127.5, which its arithmetic rounds up to 128: a pixel that is covered by exactly half stays.
    """
    white = np.where(mask, np.uint8(255), np.uint8(0))
    return np.asarray(_bilinear(Image.fromarray(white), side)) >= 128


def in_parallel(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R | Problem]:
    """``function`` over ``items`` in threads (PIL decodes outside the GIL): results in order, a few ahead of use.

    A ``BadImage`` comes out as its problem instead of ending the rest.
    """

    def attempt(item: T) -> R | Problem:
        try:
            return function(item)
        except BadImage as error:
            return error.problem

    workers = os.cpu_count() or 1
    waiting: deque[Future[R | Problem]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(attempt, item))
                if len(waiting) >= 8 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
