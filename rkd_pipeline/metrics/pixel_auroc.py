"""Pixel AUROC: image AUROC's definition over all pixels of the test set together, good images included.

The same as scikit-learn's ``roc_auc_score`` of the flattened arrays; without its sort of all pixels.

>>> import numpy as np
>>> pixel_auroc(np.array([[[0.1, 0.9], [0.2, 0.3]]]), np.array([[[False, True], [False, False]]]))
1.0
"""

from rkd_pipeline.metrics.arrays import Array
from rkd_pipeline.metrics.pixel_curve import PixelCurve, pixel_curve


def pixel_auroc(maps: Array, masks: Array) -> float:
    """AUROC of maps ``(N, H, W)`` against ground truth ``(N, H, W)``, in [0, 1]; errors as ``pixel_curve``'s."""
    return auroc_of(pixel_curve(maps, masks))


def auroc_of(curve: PixelCurve) -> float:
    """The share of pairs of an anomalous and a normal pixel that are in order, ties counting half."""
    out_of_order = int(curve.above.sum()) + int(curve.at_or_above.sum())
    return 1 - out_of_order / (2 * curve.n_anomalous * curve.n_normal)
