"""All pixel metrics that one ranking of the pixels gives.

>>> import numpy as np
>>> pixel_metrics(np.array([[[0.1, 0.4], [0.35, 0.8]]]), np.array([[[0, 0], [1, 1]]], bool)).pixel_ap
0.8333...
"""

from dataclasses import dataclass

from rkd_pipeline.metrics.arrays import Array
from rkd_pipeline.metrics.aupro import aupro_of
from rkd_pipeline.metrics.pixel_ap import ap_of
from rkd_pipeline.metrics.pixel_auroc import auroc_of
from rkd_pipeline.metrics.pixel_curve import PixelCurve, pixel_curve
from rkd_pipeline.metrics.pixel_f1_max import f1_max_of
from rkd_pipeline.metrics.pro_youden import pro_youden_of


@dataclass(frozen=True)
class PixelMetrics:
    """Fractions from 0 to 1. ``pixel_f1_max`` and ``pro_youden`` are oracles: their threshold saw the test labels."""

    pixel_auroc: float
    pixel_ap: float
    pixel_f1_max: float
    aupro_30: float
    aupro_10: float
    aupro_05: float
    pro_youden: float


def pixel_metrics(maps: Array, masks: Array) -> PixelMetrics:
    """Of maps ``(N, H, W)`` against ground truth ``(N, H, W)``; arguments and errors as those of ``aupro``."""
    return pixel_metrics_of(pixel_curve(maps, masks))


def pixel_metrics_of(curve: PixelCurve) -> PixelMetrics:
    """The same, of a curve without an FPR limit."""
    return PixelMetrics(
        pixel_auroc=auroc_of(curve),
        pixel_ap=ap_of(curve),
        pixel_f1_max=f1_max_of(curve),
        aupro_30=aupro_of(curve, 0.3),
        aupro_10=aupro_of(curve, 0.1),
        aupro_05=aupro_of(curve, 0.05),
        pro_youden=pro_youden_of(curve),
    )
