"""Pixel AP: average precision over all pixels of the test set together; "pixel AUPR" or "pixel mAP" elsewhere.

Step-wise, as scikit-learn's ``average_precision_score``: the mean, over anomalous pixels, of the precision of the
threshold at the pixel's score. (The trapezoid under the precision-recall curve, which some tools call AUPR, is larger.)

>>> import numpy as np
>>> pixel_ap(np.array([[[0.1, 0.4], [0.35, 0.8]]]), np.array([[[0, 0], [1, 1]]], bool))
0.8333...
"""

import numpy as np

from rkd_pipeline.metrics.arrays import Array
from rkd_pipeline.metrics.pixel_curve import PixelCurve, pixel_curve


def pixel_ap(maps: Array, masks: Array) -> float:
    """AP of maps ``(N, H, W)`` against ground truth ``(N, H, W)``, in [0, 1]; errors as ``pixel_curve``'s."""
    return ap_of(pixel_curve(maps, masks))


def ap_of(curve: PixelCurve) -> float:
    """The mean precision at the anomalous pixels."""
    return float(np.mean(curve.called / (curve.called + curve.at_or_above)))
