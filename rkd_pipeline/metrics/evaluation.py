"""Every metric of one trained model, from its stored scores and maps: no metric needs a training."""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import pandas as pd

from rkd_pipeline.metrics.image_ap import image_ap
from rkd_pipeline.metrics.image_auroc import image_auroc, image_auroc_interval
from rkd_pipeline.metrics.image_f1_max import image_f1_max
from rkd_pipeline.metrics.image_noise import effective_number
from rkd_pipeline.metrics.intervals import wilson
from rkd_pipeline.metrics.measurement import (
    CALIBRATION,
    LAST_EPOCH,
    NO_ANOMALOUS,
    NO_NORMAL,
    ORACLE,
    VALIDATION,
    Measurement,
    why_no_threshold,
)
from rkd_pipeline.metrics.pixel_evaluation import measure_pixels, without_maps
from rkd_pipeline.metrics.regions import with_truth
from rkd_pipeline.metrics.threshold import calibrated_threshold
from rkd_pipeline.recipes.recipe import Recipe
from rkd_pipeline.recipes.score_rules import SCORE_RULES

COLUMNS = (
    "metric", "score_rule", "protocol", "value", "ci_low", "ci_high", "interval_method", "n_normal", "n_anomalous",
    "n_without_mask",
)  # fmt: skip


def measure(
    scores: pd.DataFrame,
    maps: np.ndarray | None,
    masks: np.ndarray | None,
    recipe: Recipe,
    *,
    clusters: Sequence[Hashable] | None = None,
) -> pd.DataFrame:
    """All metrics of a trained model.

    Args:
        scores: columns ``part`` (``calibration`` or ``test``), ``anomalous`` and one per score rule of the system; N
            rows.
        maps: anomaly maps ``(N, S, S)``, in the same order; None of a system that makes none.
        masks: ground truth ``(N, S, S)`` of bool, or None for a target without. Anomalous images whose mask is empty
            are left out of the pixel metrics and counted.
        recipe: what was trained: by it the last epoch was chosen, or not, and normals were held out.
        clusters: N names, in the same order; images of one name are copies, and count once in the intervals of image
            metrics. None: all differ.

    Returns:
        Columns metric, score_rule, protocol, value, ci_low, ci_high, interval_method, n_normal, n_anomalous and
        n_without_mask (empty for image metrics). n_anomalous counts those that the metric is over. Where a metric is
        undefined its protocol says why.
    """
    in_test = (scores["part"] == "test").to_numpy()
    calibrates = (scores["part"] == "calibration").to_numpy()
    test, calibration = scores[in_test], scores[calibrates]
    trained = VALIDATION if recipe.early_stopping is not None else LAST_EPOCH
    no_threshold = why_no_threshold(recipe, len(calibration))
    copies = np.arange(len(test)) if clusters is None else np.asarray(clusters)[in_test]
    found: list[Measurement] = []
    for rule in (rule for rule in SCORE_RULES if rule in scores):
        anomalous, values = test["anomalous"].to_numpy(bool), test[rule].to_numpy()
        found += _of_both_classes(rule, trained, anomalous, values, copies)
        found += _at_threshold(rule, calibration[rule].to_numpy(), anomalous, values, copies, no_threshold)
    n_anomalous = int(test["anomalous"].sum())
    rows = [_row(m) | {"n_anomalous": n_anomalous, "n_without_mask": None} for m in found]
    if masks is not None:
        known = in_test.copy()
        known[in_test] = with_truth(test["anomalous"].to_numpy(), masks[_where(in_test)])
        of_test, without = _where(known), int(in_test.sum() - known.sum())
        if maps is None:
            pixels = without_maps()
        else:
            pixels = measure_pixels(maps[of_test], masks[of_test], maps[_where(calibrates)], trained, no_threshold)
        rows += [_row(m) | {"n_anomalous": n_anomalous - without, "n_without_mask": without} for m in pixels]
    table = pd.DataFrame(rows).assign(n_normal=int((~test["anomalous"]).sum()))
    return table.astype({"n_without_mask": "Int64"})[list(COLUMNS)]


def _of_both_classes(
    rule: str, trained: str, anomalous: np.ndarray, values: np.ndarray, copies: np.ndarray
) -> Iterator[Measurement]:
    """What compares anomalous test images with normal ones."""
    if anomalous.all() or not anomalous.any():
        reason = NO_NORMAL if anomalous.any() else NO_ANOMALOUS
        yield from (Measurement(metric, rule, reason, None) for metric in ("image_auroc", "image_ap", "image_f1_max"))
        return
    interval = image_auroc_interval(anomalous, values, clusters=copies)
    yield Measurement("image_auroc", rule, trained, image_auroc(anomalous, values), interval)
    yield Measurement("image_ap", rule, trained, image_ap(anomalous, values))
    yield Measurement("image_f1_max", rule, ORACLE, image_f1_max(anomalous, values))


def _where(flags: np.ndarray) -> slice | np.ndarray:
    """An index of the flagged rows: a slice, which copies nothing, where they lie together."""
    rows = np.flatnonzero(flags)
    together = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)
    return slice(int(rows[0]), int(rows[-1]) + 1) if together else flags


def _at_threshold(
    rule: str,
    calibration: np.ndarray,
    anomalous: np.ndarray,
    scores: np.ndarray,
    copies: np.ndarray,
    no_threshold: str,
) -> Iterator[Measurement]:
    """The threshold of a score from calibration normals, and the rates that it gives on the test images."""
    threshold = calibrated_threshold(calibration)
    if threshold is None:
        for metric in ("threshold", "fpr_at_threshold", "tpr_at_threshold"):
            yield Measurement(metric, rule, no_threshold, None)
        return
    called = scores > threshold
    yield Measurement("threshold", rule, CALIBRATION, threshold)
    for metric, group, absent in (
        ("fpr_at_threshold", ~anomalous, NO_NORMAL),
        ("tpr_at_threshold", anomalous, NO_ANOMALOUS),
    ):
        if not group.any():
            yield Measurement(metric, rule, absent, None)
            continue
        rate, images = float(called[group].mean()), effective_number(copies[group].tolist())
        yield Measurement(metric, rule, CALIBRATION, rate, wilson(rate * images, images))


def _row(m: Measurement) -> dict[str, object]:
    return {
        "metric": m.metric,
        "score_rule": m.score_rule,
        "protocol": m.protocol,
        "value": m.value,
        "ci_low": m.interval.low if m.interval else None,
        "ci_high": m.interval.high if m.interval else None,
        "interval_method": m.interval.method if m.interval else None,
    }
