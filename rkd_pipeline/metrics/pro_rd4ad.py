"""PRO as the official code of RD4AD computes it: for comparison with the numbers that it published, nothing else.

RD4AD (and RD++ and URD, which took it over) differ from MVTec AD's definition in this: one value per anomalous
image, averaged over images, so that normal images do not count and an image's regions share one vote; 200
thresholds in equal steps from the image's lowest score up; only those whose false-positive rate, over the image's
own normal pixels, is below 0.3; no interpolation there, and the rates divided by the largest one kept rather than by
0.3. (Function ``compute_pro`` of hq-deng/RD4AD, test.py, rewritten.)

>>> import numpy as np
>>> maps = np.array([[[0.9, 0.1, 0.2, 0.8, 0.3, 0.15]]])
>>> pro_rd4ad(maps, np.array([[[1, 0, 0, 0, 1, 0]]], bool))
0.5
"""

import numpy as np

from rkd_pipeline.metrics.arrays import Array, score_dtype, to_numpy
from rkd_pipeline.metrics.regions import AnomalousPixels, Undefined, anomalous_pixels

STEPS = 200
LIMIT = 0.3


def pro_rd4ad(maps: Array, masks: Array, anomalous: AnomalousPixels | None = None) -> float:
    """Mean over the anomalous images, in [0, 1]; errors as ``pro_rd4ad_per_image``'s."""
    return float(np.mean(pro_rd4ad_per_image(maps, masks, anomalous)))


def pro_rd4ad_per_image(maps: Array, masks: Array, anomalous: AnomalousPixels | None = None) -> np.ndarray:
    """The value of each image with an anomalous pixel, in the order of the maps, float64.

    Args:
        maps: floats ``(N, H, W)``, higher is more anomalous; NumPy or torch.
        masks: ground truth ``(N, H, W)``, bool or integers.
        anomalous: what ``anomalous_pixels`` found, where the caller has it already.

    Raises:
        ValueError: a NaN or an infinity, shapes that do not match.
        Undefined: no anomalous pixel, or an image for which the official code divides by zero: all of it anomalous,
            a constant map, or no false positive at any threshold whose rate is below the limit.
    """
    found = anomalous or anomalous_pixels(maps, masks)
    dtype = score_dtype(maps)
    images, first_region = np.unique(found.region_image, return_index=True)
    # Pixels come image by image: where each image's begin.
    starts = np.searchsorted(found.region, np.append(first_region, len(found.region_size)))
    values = []
    for n, image in enumerate(images.tolist()):
        mine = slice(starts[n], starts[n + 1])
        sizes = found.region_size[found.region_image == image]
        weight = 1 / (len(sizes) * sizes[found.region[mine] - first_region[n]])
        values.append(_of_image(to_numpy(maps[image]).astype(dtype), found.scores[mine], weight, image))
    return np.array(values)


def _of_image(scores: np.ndarray, anomalous: np.ndarray, weight: np.ndarray, image: int) -> float:
    """Of one map ``(H, W)``, its anomalous pixels' scores ``(A,)`` and what each adds to the mean overlap ``(A,)``."""
    n_normal = scores.size - len(anomalous)
    everything = np.sort(scores, axis=None).astype(np.float64)
    low, high = everything[0], everything[-1]
    if not np.isfinite(high - low):
        raise ValueError(f"map {image} has a NaN or an infinite pixel")
    if n_normal == 0 or high == low:
        raise Undefined(f"RD4AD's PRO: map {image} is {'all anomalous' if n_normal == 0 else 'constant'}")
    thresholds = np.arange(low, high, (high - low) / STEPS)
    order = np.argsort(anomalous)
    ranked, covered = anomalous[order].astype(np.float64), np.r_[0, np.cumsum(weight[order])]
    not_called = np.searchsorted(ranked, thresholds, "right")
    overlap = covered[-1] - covered[not_called]
    called = scores.size - np.searchsorted(everything, thresholds, "right")
    rate = (called - (len(anomalous) - not_called)) / n_normal
    kept = rate < LIMIT
    if not kept.any() or rate[kept].max() == 0:
        raise Undefined(f"RD4AD's PRO: map {image} has no threshold with a false-positive rate in (0, {LIMIT})")
    rate, overlap = rate[kept] / rate[kept].max(), overlap[kept]
    return float(np.trapezoid(overlap[::-1], rate[::-1]))
