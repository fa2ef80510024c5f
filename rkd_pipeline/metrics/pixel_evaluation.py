"""Every pixel metric of one trained model, with its interval, from its stored maps and the ground truth."""

from collections.abc import Callable, Iterator
from dataclasses import asdict

import numpy as np

from rkd_pipeline.metrics.aupimo import aupimo_per_image
from rkd_pipeline.metrics.measurement import CALIBRATION, NO_MAPS, ORACLE, Measurement
from rkd_pipeline.metrics.pixel_curve import pixel_curve
from rkd_pipeline.metrics.pixel_intervals import draws, pixel_intervals, ratio_interval
from rkd_pipeline.metrics.pixel_metrics import PixelMetrics, pixel_metrics_of
from rkd_pipeline.metrics.pro_rd4ad import pro_rd4ad_per_image
from rkd_pipeline.metrics.regions import AnomalousPixels, Undefined, anomalous_pixels
from rkd_pipeline.metrics.threshold import pixel_threshold

RULE = "map"
RANKED = tuple(PixelMetrics.__dataclass_fields__)
PER_IMAGE = ("aupimo", "pro_rd4ad")
AT_THRESHOLD = ("pixel_threshold", "pixel_fpr_at_threshold", "pixel_tpr_at_threshold")
ORACLES = ("pixel_f1_max", "pro_youden")


def measure_pixels(
    maps: np.ndarray, masks: np.ndarray, calibration_maps: np.ndarray, trained: str, no_threshold: str
) -> list[Measurement]:
    """All pixel metrics.

    Args:
        maps: anomaly maps ``(N, S, S)`` of the test images that have a ground truth (``metrics/regions.py``).
        masks: their ground truth ``(N, S, S)`` of bool.
        calibration_maps: ``(M, S, S)`` of normal images held out for thresholds alone; M may be 0.
        trained: the protocol of metrics without a threshold: on what the last epoch was chosen.
        no_threshold: the protocol where there is no threshold: why.

    Returns:
        One measurement each; where a metric is undefined its protocol says why.
    """
    try:
        found = anomalous_pixels(maps, masks)
        values = asdict(pixel_metrics_of(pixel_curve(maps, masks, anomalous=found)))
    except Undefined as reason:
        return [Measurement(m, RULE, f"none: {reason}", None) for m in (*RANKED, *PER_IMAGE, *AT_THRESHOLD)]
    functions: dict[str, Callable[..., np.ndarray]] = {"aupimo": aupimo_per_image, "pro_rd4ad": pro_rd4ad_per_image}
    of_images, reasons = _per_image(functions, maps, masks, found)
    values |= {name: float(v.mean()) for name, v in of_images.items()}
    intervals = pixel_intervals(maps, found, values)
    is_anomalous = np.isin(np.arange(len(maps)), found.region_image)
    weights = draws(is_anomalous)
    if "pro_rd4ad" in of_images and is_anomalous.sum() > 1:
        one = np.ones(int(is_anomalous.sum()))
        interval = ratio_interval(of_images["pro_rd4ad"], one, weights[:, is_anomalous])
        intervals |= {"pro_rd4ad": interval} if interval else {}
    measured = [
        Measurement(name, RULE, ORACLE if name in ORACLES else trained, value, intervals.get(name))
        for name, value in values.items()
    ]
    absent = [Measurement(name, RULE, f"none: {reason}", None) for name, reason in reasons.items()]
    return [*measured, *absent, *_at_threshold(maps, masks, calibration_maps, weights, no_threshold)]


def without_maps() -> list[Measurement]:
    """The pixel metrics of a system that makes no anomaly maps: none has a value."""
    return [Measurement(m, RULE, NO_MAPS, None) for m in (*RANKED, *PER_IMAGE, *AT_THRESHOLD)]


def _per_image(
    functions: dict[str, Callable[..., np.ndarray]], maps: np.ndarray, masks: np.ndarray, found: AnomalousPixels
) -> tuple[dict[str, np.ndarray], dict[str, Undefined]]:
    """The values by image of those that are defined, and why the others are not."""
    values, reasons = {}, {}
    for name, function in functions.items():
        try:
            values[name] = function(maps, masks, anomalous=found)
        except Undefined as reason:
            reasons[name] = reason
    return values, reasons


def _at_threshold(
    maps: np.ndarray, masks: np.ndarray, calibration_maps: np.ndarray, weights: np.ndarray, no_threshold: str
) -> Iterator[Measurement]:
    """The honest threshold of a pixel, and the rates that it gives over the test set's pixels."""
    threshold = pixel_threshold(calibration_maps)
    if threshold is None:
        yield from (Measurement(metric, RULE, no_threshold, None) for metric in AT_THRESHOLD)
        return
    yield Measurement("pixel_threshold", RULE, CALIBRATION, threshold)
    called = np.array([((m > threshold).sum(), (m > threshold)[k].sum()) for m, k in zip(maps, masks, strict=True)])
    anomalous = masks.sum(axis=(1, 2))
    for metric, part, whole in (
        ("pixel_fpr_at_threshold", called[:, 0] - called[:, 1], masks[0].size - anomalous),
        ("pixel_tpr_at_threshold", called[:, 1], anomalous),
    ):
        interval = ratio_interval(part, whole, weights)
        yield Measurement(metric, RULE, CALIBRATION, float(part.sum() / whole.sum()), interval)
