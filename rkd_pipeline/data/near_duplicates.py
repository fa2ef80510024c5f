"""Copies and near-copies among images: a perceptual hash proposes pairs, fine detail decides.

The hash is the well-known pHash: the sign, against their median, of the 64 lowest frequencies (without the constant)
of the image at 32x32 pixels. Images of the same part in the same pose share it, so a pair counts only where the
detail left after removing a blurred copy correlates as well: noise and grain repeat in a copy, and in nothing else.

The package imagehash resizes by another filter and keeps the constant: its hashes differ from those that stores hold,
and every index of images would have to be made again for no better pairs.
"""

import numpy as np
import pandas as pd
from PIL import Image

HASH_BITS = 8  # of 64; unrelated images differ in about 32
# On Brain MRI, rescaled and recompressed copies reach 0.99 and the next pair 0.64; on MVTec AD's screws, two images
# of one screw reach 0.99 and different screws in one pose 0.92.
LIKENESS = 0.95
_SIDE, _BLUR = 96, 1.5
COLUMNS = ("first", "second", "likeness", "identical")


def perceptual_hash(grey: np.ndarray) -> str:
    """16 hex digits for a grey image, uint8 ``(H, W)``; an image of one colour has the hash 0."""
    from scipy.fft import dctn

    small = np.asarray(Image.fromarray(grey).resize((32, 32), Image.Resampling.BILINEAR), np.float64)
    low = dctn(small, norm="ortho")[:8, :8].ravel()
    low[0] = 0  # brightness
    if np.abs(low).max() < 1e-6:
        return "0" * 16
    return np.packbits(low > np.median(low)).tobytes().hex()


def near_pairs(index: pd.DataFrame, images: np.ndarray) -> pd.DataFrame:
    """Pairs of images that are copies of each other, exactly or nearly.

    Args:
        index: columns ``image_id``, ``phash`` and ``pixel_sha256``; N rows.
        images: uint8 ``(N, S, S, 3)``, in the same order; may be memory-mapped.

    Returns:
        Columns first, second (ids, each pair once), likeness (correlation of fine detail), identical (the same
        pixels); the most alike first. All pairs of hashes are compared, in blocks; memory holds 18 kB per image.
    """
    hashes = np.array([int(h, 16) for h in index["phash"]], np.uint64)
    pixels = pd.factorize(index["pixel_sha256"])[0]
    details = np.stack([_detail(image) for image in images]) if len(hashes) else np.empty((0, 0))
    found: list[tuple[int, int, float, bool]] = []
    block = 256
    for start in range(0, len(hashes), block):
        same = pixels[start : start + block, None] == pixels[None, start:]
        close = np.bitwise_count(hashes[start : start + block, None] ^ hashes[None, start:]) <= HASH_BITS
        rows, columns = np.nonzero(np.triu(close | same, 1))  # each pair once: a block begins on the diagonal
        for at in range(0, len(rows), 1024):
            a, b = rows[at : at + 1024] + start, columns[at : at + 1024] + start
            alike = np.einsum("ij,ij->i", details[a].astype(np.float32), details[b].astype(np.float32))
            identical = pixels[a] == pixels[b]
            keep = identical | (alike >= LIKENESS)
            values = np.where(identical, 1.0, alike.round(3))
            found += zip(
                a[keep].tolist(), b[keep].tolist(), values[keep].tolist(), identical[keep].tolist(), strict=True
            )
    ids = index["image_id"].to_numpy()
    table = pd.DataFrame([(ids[a], ids[b], *rest) for a, b, *rest in found], columns=list(COLUMNS))
    order = ["identical", "likeness", "first", "second"]
    return table.sort_values(order, ascending=[False, False, True, True], ignore_index=True)


def _detail(image: np.ndarray) -> np.ndarray:
    """What a small blur takes away from an image, as a unit vector, float16 ``(96 * 96,)``; 0 where there is none."""
    grey = Image.fromarray(image).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    values = np.asarray(grey, np.float32)
    from scipy.ndimage import gaussian_filter

    values = values - gaussian_filter(values, _BLUR)
    values -= values.mean()
    length = float(np.linalg.norm(values))
    return (values.ravel() / length if length > 1e-3 else np.zeros(_SIDE * _SIDE, np.float32)).astype(np.float16)
