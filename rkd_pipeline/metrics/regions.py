"""The anomalous pixels of a test set and the regions that they form.

A region is an 8-connected component of one image's ground truth (MVTec AD's rule).

>>> import numpy as np
>>> masks = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 0]], [[1, 0, 1], [0, 0, 0], [0, 0, 0]]], bool)
>>> found = anomalous_pixels(np.arange(18.0).reshape(2, 3, 3), masks)
>>> found.region_size.tolist(), found.region.tolist(), found.scores.tolist()
([2, 1, 1], [0, 0, 1, 2], [0.0, 4.0, 9.0, 11.0])
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from rkd_pipeline.metrics.arrays import Array, check_maps, score_dtype, to_numpy

EIGHT_CONNECTED = np.ones((3, 3))


class Undefined(ValueError):
    """The metric has no value for these images; the message says why."""


@dataclass(frozen=True)
class AnomalousPixels:
    """The anomalous pixels of N maps: A pixels in R regions.

    Attributes:
        scores: ``(A,)``, float32 or float64.
        region: int32 ``(A,)``, from 0 to R - 1.
        region_size: int64 ``(R,)``, pixels.
        region_image: int64 ``(R,)``, ascending: which map each region is in.
        n_maps: N, normal ones included.
    """

    scores: np.ndarray
    region: np.ndarray
    region_size: np.ndarray
    region_image: np.ndarray
    n_maps: int

    @property
    def normal_images(self) -> np.ndarray:
        """Indices of the maps without an anomalous pixel, int64."""
        return np.setdiff1d(np.arange(self.n_maps), self.region_image)

    @property
    def overlap(self) -> np.ndarray:
        """What each pixel adds to the mean over regions of the share covered, ``1 / (R size)``; they sum to 1."""
        return (1 / (len(self.region_size) * self.region_size))[self.region]


def with_truth(anomalous: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Which images have a ground truth for their pixels, bool ``(N,)``.

    Normal ones, and anomalous ones whose mask shows something. An anomalous image without a mask, or with an empty
    one (its defect may be gone at this size), says nothing about its pixels: they are not normal.

    Args:
        anomalous: labels ``(N,)`` of bool.
        masks: ``(N, H, W)`` of bool.
    """
    return np.asarray(~np.asarray(anomalous, bool) | masks.any(axis=(1, 2)))


def anomalous_pixels(maps: Array, masks: Array) -> AnomalousPixels:
    """Find them in maps ``(N, H, W)`` and ground truth ``(N, H, W)`` of bool, or integers where not 0 is anomalous.

    Raises:
        ValueError: shapes that do not match.
        TypeError: ground truth of floats, which needs a threshold first; scores that float64 cannot hold.
        Undefined: no anomalous pixel.
    """
    check_maps(maps, masks)
    scores, region, size, image = [], [], [], []
    n_regions = 0
    for i, box, mask in _defects(to_numpy(masks)):
        labelled, n = ndimage.label(mask, EIGHT_CONNECTED)
        of_pixel = labelled[mask] - 1
        scores.append(to_numpy(maps[i][box])[mask])
        region.append((of_pixel + n_regions).astype(np.int32))
        size.append(np.bincount(of_pixel, minlength=n))
        image.append(np.full(n, i))
        n_regions += n
    if n_regions == 0:
        raise Undefined(f"no anomalous pixel in {len(maps)} maps")
    return AnomalousPixels(
        scores=np.concatenate(scores).astype(score_dtype(maps), copy=False),
        region=np.concatenate(region),
        region_size=np.concatenate(size),
        region_image=np.concatenate(image),
        n_maps=len(maps),
    )


def _defects(masks: np.ndarray) -> Iterator[tuple[int, tuple[slice, slice], np.ndarray]]:
    """Of every image with a defect: its index, the smallest box that holds all of it, and the box's mask, bool."""
    for i, mask in enumerate(masks):
        rows = np.flatnonzero(mask.any(axis=1))
        if len(rows) == 0:
            continue
        columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
        box = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        yield i, box, np.ascontiguousarray(mask[box], bool)
