"""Image AUROC: the probability that an anomalous image scores above a normal one, ties counting half.

The area under the ROC curve is that probability (Mann-Whitney). Its interval is a score interval: it holds every AUROC
``a`` from which the measured one lies no further than noise would carry it, ``|measured - a| <= t sqrt(V(a))``, and so
has a width at 0, at 1 and for constant scores too. ``V(a)`` is the larger of two variances:

- *of exponential scores* (Hanley and McNeil 1982) at the sizes of the classes, in the less favourable direction. It
  stands in where the sample shows hardly a pair out of order, as Newcombe's method 5 (2006) does; that one takes the
  mean of both sizes instead, which is too narrow for ten images against a hundred.
- *of these scores* (DeLong, DeLong and Clarke-Pearson 1988; computed as in Sun and Xu 2014), in proportion to
  ``a (1 - a)`` as Wilson's is, with Student's t at Satterthwaite's degrees of freedom.

The bound between the measured AUROC and 1 rests on the few images out of order, x of n say; with 2 x degrees of freedom
it agrees with the exact one for a count of x within a few percent (likewise towards 0).

>>> import numpy as np
>>> image_auroc(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8]))
0.75
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit  # Student's quantile, without the checks of scipy.stats.t
from scipy.stats import rankdata

from rkd_pipeline.metrics.image_noise import Deviations, effective_number, image_noise
from rkd_pipeline.metrics.intervals import Interval

METHOD = "score interval over images"
FEWEST_FREEDOM = 0.5  # below it Student's t is beyond any bound anyway


def image_auroc(anomalous: np.ndarray, scores: np.ndarray) -> float:
    """AUROC of scores ``(N,)`` against labels ``(N,)`` of bool, in [0, 1].

    Raises ``ValueError`` for a class without images or a score that is not finite.
    """
    return float(np.mean(placements(anomalous, scores)[0]))


def image_auroc_interval(
    anomalous: np.ndarray,
    scores: np.ndarray,
    level: float = 0.95,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
) -> Interval:
    """Score interval of the AUROC within [0, 1]; how often it holds the truth: docs/metrics.md.

    Args:
        anomalous: labels ``(N,)`` of bool.
        scores: ``(N,)``, finite.
        level: coverage.
        clusters: N names; images of one name are copies of one image, and count once. None: all differ. An interval
            that is not told of copies is too narrow.

    Raises ``ValueError`` as ``image_auroc`` does.
    """
    anomalous = np.asarray(anomalous, bool)
    names = np.arange(len(anomalous)) if clusters is None else np.asarray(clusters)
    of_anomalous, of_normal = placements(anomalous, scores)
    auroc = float(np.mean(of_anomalous))
    sizes = effective_number(names[anomalous].tolist()), effective_number(names[~anomalous].tolist())
    of_scores, freedom = 0.0, np.inf
    if auroc not in (0.0, 1.0) and min(len(np.unique(names[k])) for k in (anomalous, ~anomalous)) > 1:
        noise = image_noise([Deviations(names.tolist(), anomalous, of_anomalous - auroc, of_normal - auroc)])
        of_scores, freedom = noise.variance / (auroc * (1 - auroc)), noise.freedom

    def bound(towards: float) -> float:
        if auroc == towards:
            return towards
        images = abs(towards - auroc) / max(_exponential(auroc, *sizes), of_scores)  # out of order, seen from there
        few = max(FEWEST_FREEDOM, 2 * images)
        of_few, of_both = (float(stdtrit(x, (1 + level) / 2)) for x in (few, min(few, freedom)))

        def beyond(a: float) -> float:
            factor = max(of_few**2 * _exponential(a, *sizes), of_both**2 * of_scores)
            return abs(auroc - a) - math.sqrt(a * (1 - a) * factor)

        # At the far end the variance is 0 and the distance is not; beside the estimate it is the other way round.
        # (At an estimate of 0 or 1 itself both are 0: a root, but not the one that is meant.)
        beside = auroc + 1e-9 * (towards - auroc)
        return float(brentq(beyond, beside, towards)) if beyond(beside) < 0 else auroc

    return Interval(bound(0.0), bound(1.0), METHOD)


def _exponential(a: float, n_anomalous: float, n_normal: float) -> float:
    """Hanley and McNeil's variance of an AUROC over ``a (1 - a)``, with the classes so that it is the larger."""
    of_larger, of_smaller = sorted(((1 - a) / (2 - a), a / (1 + a)), reverse=True)
    larger, smaller = max(n_anomalous, n_normal), min(n_anomalous, n_normal)
    return (1 + (larger - 1) * of_larger + (smaller - 1) * of_smaller) / (n_anomalous * n_normal)


def placements(anomalous: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each anomalous image the share of normals below it; for each normal the share of anomalous ones above."""
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
