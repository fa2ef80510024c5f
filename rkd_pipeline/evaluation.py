"""Every metric of one trained model, from its stored scores and maps: no metric needs a training."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from rkd_pipeline.measurement import LAST_EPOCH, NO_VALIDATION, ORACLE, TOO_FEW, VALIDATION, Measurement
from rkd_pipeline.metrics.image_ap import image_ap
from rkd_pipeline.metrics.image_auroc import image_auroc, image_auroc_interval
from rkd_pipeline.metrics.image_f1_max import image_f1_max
from rkd_pipeline.metrics.intervals import wilson
from rkd_pipeline.metrics.regions import with_truth
from rkd_pipeline.metrics.threshold import validation_threshold
from rkd_pipeline.pixel_evaluation import measure_pixels
from rkd_pipeline.score_rules import SCORE_RULES

COLUMNS = (
    "metric", "score_rule", "protocol", "value", "ci_low", "ci_high", "interval_method", "n_normal", "n_anomalous",
    "n_without_mask",
)  # fmt: skip


def measure(scores: pd.DataFrame, maps: np.ndarray, masks: np.ndarray | None, *, early_stopping: bool) -> pd.DataFrame:
    """All metrics of a trained model.

    Args:
        scores: columns ``part`` (``validation`` or ``test``), ``anomalous`` and one per score rule of the system; N
            rows.
        maps: anomaly maps ``(N, S, S)``, in the same order.
        masks: ground truth ``(N, S, S)`` of bool, or None for a target without. Anomalous images whose mask is empty
            are left out of the pixel metrics and counted.
        early_stopping: the last epoch was chosen on validation normals.

    Returns:
        Columns metric, score_rule, protocol, value, ci_low, ci_high, interval_method, n_normal, n_anomalous and
        n_without_mask (empty for image metrics). n_anomalous counts those that the metric is over.
    """
    in_test = (scores["part"] == "test").to_numpy()
    test, validation = scores[in_test], scores[~in_test]
    trained = VALIDATION if early_stopping else LAST_EPOCH
    found: list[Measurement] = []
    for rule in (rule for rule in SCORE_RULES if rule in scores):
        anomalous, values = test["anomalous"].to_numpy(), test[rule].to_numpy()
        interval = image_auroc_interval(anomalous, values)
        found += [
            Measurement("image_auroc", rule, trained, image_auroc(anomalous, values), interval),
            Measurement("image_ap", rule, trained, image_ap(anomalous, values)),
            Measurement("image_f1_max", rule, ORACLE, image_f1_max(anomalous, values)),
            *_at_threshold(rule, validation[rule].to_numpy(), anomalous, values),
        ]
    n_anomalous = int(test["anomalous"].sum())
    rows = [_row(m) | {"n_anomalous": n_anomalous, "n_without_mask": None} for m in found]
    if masks is not None:
        known = in_test.copy()
        known[in_test] = with_truth(test["anomalous"].to_numpy(), masks[_where(in_test)])
        of_test, without = _where(known), int(in_test.sum() - known.sum())
        pixels = measure_pixels(maps[of_test], masks[of_test], maps[_where(~in_test)], trained)
        rows += [_row(m) | {"n_anomalous": n_anomalous - without, "n_without_mask": without} for m in pixels]
    table = pd.DataFrame(rows).assign(n_normal=int((~test["anomalous"]).sum()))
    return table.astype({"n_without_mask": "Int64"})[list(COLUMNS)]


def _where(flags: np.ndarray) -> slice | np.ndarray:
    """An index of the flagged rows: a slice, which copies nothing, where they lie together."""
    rows = np.flatnonzero(flags)
    together = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)
    return slice(int(rows[0]), int(rows[-1]) + 1) if together else flags


def _at_threshold(
    rule: str, validation: np.ndarray, anomalous: np.ndarray, scores: np.ndarray
) -> Iterator[Measurement]:
    """The honest threshold of a score, and the rates that it gives on the test pictures."""
    threshold = validation_threshold(validation)
    if threshold is None:
        reason = TOO_FEW if len(validation) else NO_VALIDATION
        for metric in ("threshold", "fpr_at_threshold", "tpr_at_threshold"):
            yield Measurement(metric, rule, reason, None)
        return
    called = scores > threshold
    yield Measurement("threshold", rule, VALIDATION, threshold)
    for metric, group in (("fpr_at_threshold", called[~anomalous]), ("tpr_at_threshold", called[anomalous])):
        interval = wilson(int(group.sum()), len(group))
        yield Measurement(metric, rule, VALIDATION, float(group.mean()), interval)


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
