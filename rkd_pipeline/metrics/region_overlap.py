"""The overlap of every single region: what AUPRO is the mean of, so that regions of different size can be compared.

For one region: the share of it that lies above the threshold, against the false-positive rate over the whole test
set, averaged up to a false-positive rate ``limit``. In [0, 1]; the mean over all regions is ``aupro``.

>>> import numpy as np
>>> maps = np.array([[[0.9, 0.1, 0.8, 0.2]], [[0.3, 0.4, 0.7, 0.5]]])
>>> masks = np.array([[[1, 0, 0, 1]], [[0, 0, 0, 0]]], bool)
>>> region_overlap(maps, masks).overlap.tolist()
[1.0, 0.0]
"""

from dataclasses import dataclass

import numpy as np

from rkd_pipeline.metrics.arrays import Array
from rkd_pipeline.metrics.aupro import left_up_to
from rkd_pipeline.metrics.pixel_curve import pixel_curve
from rkd_pipeline.metrics.regions import AnomalousPixels, anomalous_pixels


@dataclass(frozen=True)
class RegionOverlap:
    """Of R regions.

    Attributes:
        image: int64 ``(R,)``, which map each is in, ascending.
        size: int64 ``(R,)``, pixels.
        overlap: float64 ``(R,)``, in [0, 1].
    """

    image: np.ndarray
    size: np.ndarray
    overlap: np.ndarray


def region_overlap(
    maps: Array, masks: Array, limit: float = 0.3, *, anomalous: AnomalousPixels | None = None
) -> RegionOverlap:
    """Of maps ``(N, H, W)`` against ground truth ``(N, H, W)``; arguments and errors as those of ``aupro``."""
    found = anomalous or anomalous_pixels(maps, masks)
    curve = pixel_curve(maps, masks, limit=limit, anomalous=found)
    area = left_up_to(curve, limit)
    # The curve's order; pixels of equal score have equal areas, so that their order does not matter.
    region = found.region[np.argsort(-found.scores)][: len(area)]
    total = np.bincount(region, area, minlength=len(found.region_size))
    return RegionOverlap(found.region_image, found.region_size, np.minimum(1.0, total / (limit * found.region_size)))
