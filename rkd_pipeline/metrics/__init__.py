"""Metrics, one per file: definition, source, shapes and a runnable example. Higher scores are more anomalous.

``aupro`` and ``pixel_metrics`` are the ones to use from elsewhere; docs/metrics.md lists them all.
"""

from rkd_pipeline.metrics.aupro import aupro
from rkd_pipeline.metrics.pixel_metrics import PixelMetrics, pixel_metrics

__all__ = ["PixelMetrics", "aupro", "pixel_metrics"]
