"""Every metric of one trained model, from its stored scores and maps: no metric needs a training."""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import pandas as pd

from rkd_pipeline.measurement import LAST_EPOCH, NO_VALIDATION, ORACLE, TOO_FEW, VALIDATION, Measurement
from rkd_pipeline.metrics.image_ap import image_ap
from rkd_pipeline.metrics.image_auroc import image_auroc, image_auroc_interval
from rkd_pipeline.metrics.image_f1_max import image_f1_max
from rkd_pipeline.metrics.image_noise import effective_number
from rkd_pipeline.metrics.intervals import wilson
from rkd_pipeline.metrics.threshold import validation_threshold
from rkd_pipeline.pixel_evaluation import measure_pixels
from rkd_pipeline.score_rules import SCORE_RULES


def measure(
    scores: pd.DataFrame,
    maps: np.ndarray,
    masks: np.ndarray | None,
    *,
    early_stopping: bool,
    clusters: Sequence[Hashable] | None = None,
) -> pd.DataFrame:
    """All metrics of a trained model.

    Args:
        scores: columns ``part`` (``validation`` or ``test``), ``anomalous`` and one per score rule of the system; N
            rows.
        maps: anomaly maps ``(N, S, S)``, in the same order.
        masks: ground truth ``(N, S, S)`` of bool, or None for a target without.
        early_stopping: the last epoch was chosen on validation normals.
        clusters: N names, in the same order; images of one name are copies, and count once in the intervals of image
            metrics. None: all differ.

    Returns:
        Columns metric, score_rule, protocol, value, ci_low, ci_high, interval_method, n_normal, n_anomalous.
    """
    in_test = (scores["part"] == "test").to_numpy()
    test, validation = scores[in_test], scores[~in_test]
    trained = VALIDATION if early_stopping else LAST_EPOCH
    copies = np.arange(len(test)) if clusters is None else np.asarray(clusters)[in_test]
    found: list[Measurement] = []
    for rule in (rule for rule in SCORE_RULES if rule in scores):
        anomalous, values = test["anomalous"].to_numpy(), test[rule].to_numpy()
        interval = image_auroc_interval(anomalous, values, clusters=copies)
        found += [
            Measurement("image_auroc", rule, trained, image_auroc(anomalous, values), interval),
            Measurement("image_ap", rule, trained, image_ap(anomalous, values)),
            Measurement("image_f1_max", rule, ORACLE, image_f1_max(anomalous, values)),
            *_at_threshold(rule, validation[rule].to_numpy(), anomalous, values, copies),
        ]
    if masks is not None:
        of_test, of_validation = _where(in_test), _where(~in_test)
        found += measure_pixels(maps[of_test], masks[of_test], maps[of_validation], trained)
    rows = pd.DataFrame([_row(m) for m in found])
    return rows.assign(n_normal=int((~test["anomalous"]).sum()), n_anomalous=int(test["anomalous"].sum()))


def _where(flags: np.ndarray) -> slice | np.ndarray:
    """An index of the flagged rows: a slice, which copies nothing, where they lie together."""
    rows = np.flatnonzero(flags)
    together = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)
    return slice(int(rows[0]), int(rows[-1]) + 1) if together else flags


def _at_threshold(
    rule: str, validation: np.ndarray, anomalous: np.ndarray, scores: np.ndarray, copies: np.ndarray
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
    for metric, group in (("fpr_at_threshold", ~anomalous), ("tpr_at_threshold", anomalous)):
        rate, images = float(called[group].mean()), effective_number(copies[group].tolist())
        yield Measurement(metric, rule, VALIDATION, rate, wilson(rate * images, images))


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
