"""Pixel F1-max: the best F1 over all pixels that any threshold reaches. An *oracle*: chosen on test labels.

>>> import numpy as np
>>> pixel_f1_max(np.array([[[0.1, 0.4], [0.35, 0.8]]]), np.array([[[0, 0], [1, 1]]], bool))
0.8
"""

import numpy as np

from rkd_pipeline.metrics.arrays import Array
from rkd_pipeline.metrics.pixel_curve import PixelCurve, pixel_curve


def pixel_f1_max(maps: Array, masks: Array) -> float:
    """F1-max of maps ``(N, H, W)`` against ground truth ``(N, H, W)``, in (0, 1]; errors as ``pixel_curve``'s."""
    return f1_max_of(pixel_curve(maps, masks))


def f1_max_of(curve: PixelCurve) -> float:
    """``2 TP / (2 TP + FP + FN)`` at its best; a threshold between anomalous scores only adds false positives."""
    return float(np.max(2 * curve.called / (curve.called + curve.at_or_above + curve.n_anomalous)))
