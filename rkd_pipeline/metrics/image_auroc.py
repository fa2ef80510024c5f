"""Image AUROC: the probability that an anomalous picture scores above a normal one, ties counting half.

The area under the ROC curve is that probability (Mann-Whitney); its variance comes from the same ranks (DeLong,
DeLong and Clarke-Pearson 1988; computed as in Sun and Xu 2014).

>>> import numpy as np
>>> image_auroc(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8]))
0.75
"""

import numpy as np
from scipy.stats import norm, rankdata

from rkd_pipeline.metrics.intervals import Interval, newcombe


def image_auroc(anomalous: np.ndarray, scores: np.ndarray) -> float:
    """AUROC of scores ``(N,)`` against labels ``(N,)`` of bool, in [0, 1].

    Raises ``ValueError`` for a class without pictures or a score that is not finite.
    """
    return float(np.mean(placements(anomalous, scores)[0]))


def image_auroc_interval(anomalous: np.ndarray, scores: np.ndarray, level: float = 0.95) -> Interval:
    """DeLong's interval, clipped to [0, 1]; Newcombe's where every pair is ordered alike and DeLong's has no width."""
    of_anomalous, of_normal = placements(anomalous, scores)
    auroc = float(np.mean(of_anomalous))
    if auroc in (0.0, 1.0) or min(len(of_anomalous), len(of_normal)) < 2:
        return newcombe(auroc, len(of_anomalous), len(of_normal), level)
    variance = np.var(of_anomalous, ddof=1) / len(of_anomalous) + np.var(of_normal, ddof=1) / len(of_normal)
    half = float(norm.ppf((1 + level) / 2) * np.sqrt(variance))
    return Interval(max(0.0, auroc - half), min(1.0, auroc + half), "delong")


def placements(anomalous: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each anomalous picture the share of normals below it; for each normal the share of anomalous ones above."""
    anomalous, scores = np.asarray(anomalous, bool), np.asarray(scores, float)
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are NaN or infinite")
    positive, negative = scores[anomalous], scores[~anomalous]
    if len(positive) == 0 or len(negative) == 0:
        raise ValueError(f"AUROC needs both classes; there are {len(positive)} anomalous and {len(negative)} normal")
    together = rankdata(np.concatenate([positive, negative]))
    below = (together[: len(positive)] - rankdata(positive)) / len(negative)
    above = 1 - (together[len(positive) :] - rankdata(negative)) / len(positive)
    return below, above
