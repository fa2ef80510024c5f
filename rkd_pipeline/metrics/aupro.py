"""AUPRO: the area under the per-region overlap curve up to a false-positive rate, as MVTec AD defines it.

Bergmann et al. 2021, IJCV 129, section 4.2 (there "AU-PRO"; 0.3 is the usual limit, and MVTec LOCO and AD 2 use 0.05):
for every threshold, the share of each ground-truth region that lies above it, averaged over the regions of the whole
test set; against the share of the normal pixels of the whole test set that do, good images included. Regions are
8-connected. The curve has every threshold (no grid), is linear between them and at the limit; the area is divided by
the limit. It is not ``pro_youden`` and not ``pro_rd4ad``.

The area is taken pixel by pixel: an anomalous pixel in a region of n, among R regions, lifts the curve by 1 / (R n)
from the false-positive rate at which the threshold passes it, so it adds that times what is left up to the limit.

>>> import numpy as np
>>> maps = np.array([[[0.9, 0.1, 0.8, 0.2]], [[0.3, 0.4, 0.7, 0.5]]])
>>> masks = np.array([[[1, 0, 1, 0]], [[0, 0, 0, 0]]], bool)
>>> aupro(maps, masks), aupro(-maps, masks)
(1.0, 0.0)
"""

import numpy as np

from rkd_pipeline.metrics.arrays import Array
from rkd_pipeline.metrics.pixel_curve import PixelCurve, pixel_curve


def aupro(maps: Array, masks: Array, limit: float = 0.3) -> float:
    """AUPRO of maps ``(N, H, W)`` against ground truth ``(N, H, W)``, in [0, 1]; exact.

    Args:
        maps: anomaly maps of floats, higher is more anomalous; NumPy or torch, CPU or GPU.
        masks: bool, or integers where not 0 is anomalous.
        limit: the false-positive rate up to which the area is taken, in (0, 1].

    Raises:
        ValueError: a NaN or an infinity (the message says where), shapes that do not match.
        Undefined: a ``ValueError`` too: no anomalous or no normal pixel.
    """
    return aupro_of(pixel_curve(maps, masks, limit=limit), limit)


def aupro_of(curve: PixelCurve, limit: float) -> float:
    """AUPRO of a curve that reaches the limit or beyond it."""
    area = left_up_to(curve, limit)
    return min(1.0, float(np.dot(curve.overlap[: len(area)], area) / limit))  # a sum may round to above 1


def left_up_to(curve: PixelCurve, limit: float) -> np.ndarray:
    """For each anomalous pixel that is passed before the limit, highest score first, what is left up to the limit."""
    kept = int(np.searchsorted(curve.above, limit * curve.n_normal))
    first, last = curve.above[:kept] / curve.n_normal, curve.at_or_above[:kept] / curve.n_normal
    # Pixels of equal score enter together: while the rate goes from first to last, the curve rises in a line.
    area = limit - (first + last) / 2
    over = last > limit  # the limit cuts the line; what remains is a triangle
    area[over] = (limit - first[over]) ** 2 / (2 * (last[over] - first[over]))
    return area
