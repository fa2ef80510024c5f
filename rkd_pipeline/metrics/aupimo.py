"""AUPIMO: the area under the per-image overlap curve at very low false-positive rates.

Bertoldo et al. 2024, arXiv 2401.01984: for every threshold, the share of an image's anomalous pixels above it,
against the share of the pixels of the *normal images* that are; the area over the logarithm of the latter from 1e-5
to 1e-4, divided by ln 10; the mean over anomalous images. Here it is exact: every threshold counts and the curve is
linear between them (anomalib samples 300,000 thresholds by default).

Two warnings. n normal images of P pixels resolve rates of 1 / (n P): ten images of 224 x 224 have five pixels
below 1e-5. Without normal images there is no AUPIMO: it is not taken over the normal pixels of the others.

>>> import numpy as np
>>> maps = np.array([[[0.1, 0.2], [0.1, 0.3]], [[0.9, 0.2], [0.25, 0.1]]])
>>> aupimo(maps, np.array([[[0, 0], [0, 0]], [[1, 0], [1, 0]]], bool))
0.5
"""

import numpy as np

from rkd_pipeline.metrics.arrays import Array
from rkd_pipeline.metrics.pixel_blocks import Grid, pixels_of
from rkd_pipeline.metrics.pixel_curve import outranking
from rkd_pipeline.metrics.regions import AnomalousPixels, Undefined, anomalous_pixels

BOUNDS = (1e-5, 1e-4)
BITS = 16  # of the grid: so few pixels lie within the bounds that any will do


def aupimo(maps: Array, masks: Array, bounds: tuple[float, float] = BOUNDS) -> float:
    """Mean over the anomalous images of maps ``(N, H, W)``, in [0, 1]; errors as ``aupimo_per_image``'s."""
    return float(np.mean(aupimo_per_image(maps, masks, bounds)))


def aupimo_per_image(
    maps: Array,
    masks: Array,
    bounds: tuple[float, float] = BOUNDS,
    anomalous: AnomalousPixels | None = None,
) -> np.ndarray:
    """AUPIMO of each image with an anomalous pixel, in the order of the maps, float64.

    Args:
        maps: floats ``(N, H, W)``, higher is more anomalous; NumPy or torch.
        masks: ground truth ``(N, H, W)``, bool or integers.
        bounds: lowest and highest false-positive rate, in (0, 1].
        anomalous: what ``anomalous_pixels`` found, where the caller has it already.

    Raises:
        ValueError: a NaN or an infinity (the message says where), shapes that do not match.
        Undefined: no normal or no anomalous image.
    """
    found = anomalous or anomalous_pixels(maps, masks)
    normal = found.normal_images
    if len(normal) == 0:
        raise Undefined("no image without an anomalous pixel, whose pixels AUPIMO takes its rates from")
    everything, pixels = pixels_of(maps), pixels_of(maps, normal)
    grid = Grid.spanning(*everything.extremes(), found.scores.dtype, BITS)
    order = np.argsort(-found.scores)
    above, at_or_above = outranking(pixels, grid, found.scores[order], bounds[1] * pixels.n)
    area = area_of(above / pixels.n, at_or_above / pixels.n, *bounds)
    image = found.region_image[found.region]
    kept = np.bincount(image[order[: len(above)]], area, minlength=found.n_maps)
    images = np.unique(found.region_image)
    return kept[images] / np.bincount(image, minlength=found.n_maps)[images]


def area_of(first: np.ndarray, last: np.ndarray, low: float, high: float) -> np.ndarray:
    """What a pixel adds that enters, in a line, while the rate goes from ``first`` to ``last``; any shape."""
    begin, end = np.clip(first, low, high), np.clip(last, low, high)
    width = np.where(last > first, last - first, 1)  # no line, nothing to divide: begin equals end
    rising = (end - begin - first * np.log(end / begin)) / width
    return (np.log(high / end) + rising) / np.log(high / low)
