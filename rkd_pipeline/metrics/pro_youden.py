"""PRO at one threshold, the one that maximises Youden's J over all pixels. An *oracle*: chosen on test labels.

What the paper of Reverse Knowledge Distillation reports as PRO: the threshold with the largest ``J = TPR - FPR``
(Youden 1950), TPR and FPR over all pixels of the test set, and the mean over regions of the share that lies at or
above it. No area, so it is not comparable with AUPRO, beside which the paper prints it.

>>> import numpy as np
>>> maps = np.array([[[0.9, 0.1, 0.2, 0.8, 0.3, 0.15]]])
>>> pro_youden(maps, np.array([[[1, 0, 0, 1, 1, 0]]], bool)), pro_youden(-maps, np.array([[[1, 0, 0, 1, 1, 0]]], bool))
(1.0, 0.0)
"""

import numpy as np

from rkd_pipeline.metrics.arrays import Array
from rkd_pipeline.metrics.pixel_curve import PixelCurve, pixel_curve


def pro_youden(maps: Array, masks: Array) -> float:
    """Mean region overlap at Youden's threshold, in [0, 1], of ``(N, H, W)``; errors as ``pixel_curve``'s."""
    return pro_youden_of(pixel_curve(maps, masks))


def youden_threshold(curve: PixelCurve) -> float:
    """The highest of the thresholds that maximise J; infinite where no threshold has a positive J."""
    # J times both counts, in integers, so that equal values are equal.
    j = curve.called * curve.n_normal - curve.at_or_above * curve.n_anomalous
    best = int(np.argmax(j))
    return float(curve.scores[best]) if j[best] > 0 else np.inf


def pro_youden_of(curve: PixelCurve) -> float:
    """The same, of a curve."""
    return min(1.0, float(curve.overlap[curve.scores >= youden_threshold(curve)].sum()))
