"""Two systems on the same test images: the difference of their image AUROCs, and what of it could be noise.

Two kinds of noise are added, for both decide whether a difference will be seen again:

- *Images.* DeLong's variance of a difference over several repeats of a split (``image_noise.py``). An image that
  tests in several repeats, and images with the same pixels, add evidence once. Where hardly an image is placed
  differently the sample shows hardly any noise, so it counts as at least ``LEAST_ERROR`` of an image of the rarer
  class: by simulation the least that keeps the interval's promise with 5 to 50 of them (docs/metrics.md).
- *Trainings.* The spread of the difference between repeats, each trained anew, corrected for the training images that
  repeats share (Nadeau and Bengio 2003). One repeat shows no spread, and supports no claim.

The degrees of freedom of the sum are Satterthwaite's, of both.

>>> import numpy as np
>>> anomalous, ids = np.arange(40) % 2 == 1, [str(i) for i in range(40)]
>>> worse, better = np.arange(40) % 5 + anomalous * 1.0, np.arange(40) % 5 + anomalous * 3.0
>>> pairs = [Pair(ids, anomalous, [better], [worse]), Pair(ids, anomalous, [better], [worse])]
>>> found = paired_auroc(pairs)
>>> round(found.first - found.second, 4) == round(found.difference, 4), found.p_better < 0.001
(True, True)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import t

from rkd_pipeline.metrics.image_auroc import image_auroc, placements
from rkd_pipeline.metrics.image_noise import Deviations, ImageNoise, image_noise

LEAST_ERROR = 1 / 3


@dataclass(frozen=True)
class Pair:
    """One repeat: the same N test images, scored by two systems.

    Attributes:
        clusters: N names; images of one name are one image (the same in several repeats, or copies).
        anomalous: bool ``(N,)``.
        first, second: of each system one array of scores ``(N,)`` per training; trainings are averaged.
    """

    clusters: Sequence[str]
    anomalous: np.ndarray
    first: Sequence[np.ndarray]
    second: Sequence[np.ndarray]


@dataclass(frozen=True)
class PairedAuroc:
    """A difference of AUROCs with its noise.

    Attributes:
        first, second: mean AUROC of either system, in [0, 1].
        difference: first minus second.
        ci_low, ci_high: interval of the difference.
        p_better: one-sided p-value of "the first is no better than the second"; None where noise is not known.
        error_of_images, error_of_trainings: the two parts of the standard error; the latter None for one repeat.
        repeats: how many.
        n_normal, n_anomalous: distinct test images.
        freedom_of_images: degrees of freedom of the images' part of the error.
    """

    first: float
    second: float
    difference: float
    ci_low: float | None
    ci_high: float | None
    p_better: float | None
    error_of_images: float
    error_of_trainings: float | None
    repeats: int
    n_normal: int
    n_anomalous: int
    freedom_of_images: float


def paired_auroc(pairs: Sequence[Pair], *, test_to_train: float = 0.0, level: float = 0.95) -> PairedAuroc:
    """Compare two systems over repeats.

    Args:
        pairs: one per repeat, at least one.
        test_to_train: test images that each repeat draws anew over training images; 0 where all test on the same.
        level: of the interval.

    Raises ``ValueError`` for no repeat, a class without two distinct images, or scores that are not finite.
    """
    if not pairs:
        raise ValueError("two systems cannot be compared without a repeat that both were trained on")
    differences = [_mean_auroc(p.anomalous, p.first) - _mean_auroc(p.anomalous, p.second) for p in pairs]
    difference, repeats = float(np.mean(differences)), len(pairs)
    noise = _noise_of_images(pairs, differences)
    of_images = noise.variance
    first, second = (
        float(np.mean([_mean_auroc(p.anomalous, s) for p, s in zip(pairs, side, strict=True)]))
        for side in ([p.first for p in pairs], [p.second for p in pairs])
    )
    if repeats == 1:
        known = noise.n_normal, noise.n_anomalous, noise.freedom
        return PairedAuroc(first, second, difference, None, None, None, float(np.sqrt(of_images)), None, 1, *known)
    of_trainings = float(np.var(differences, ddof=1)) * (1 / repeats + test_to_train)
    variance = of_images + of_trainings
    freedom = variance**2 / (of_images**2 / noise.freedom + of_trainings**2 / (repeats - 1))
    half = float(t.ppf((1 + level) / 2, freedom) * np.sqrt(variance))
    return PairedAuroc(
        first=first,
        second=second,
        difference=difference,
        ci_low=difference - half,
        ci_high=difference + half,
        p_better=float(t.sf(difference / np.sqrt(variance), freedom)),
        error_of_images=float(np.sqrt(of_images)),
        error_of_trainings=float(np.sqrt(of_trainings)),
        repeats=repeats,
        n_normal=noise.n_normal,
        n_anomalous=noise.n_anomalous,
        freedom_of_images=noise.freedom,
    )


def _mean_auroc(anomalous: np.ndarray, trainings: Sequence[np.ndarray]) -> float:
    return float(np.mean([image_auroc(anomalous, scores) for scores in trainings]))


def _noise_of_images(pairs: Sequence[Pair], differences: Sequence[float]) -> ImageNoise:
    """Of the mean difference: how far each image's placement differs between the systems beyond the mean."""
    repeats = []
    for pair, difference in zip(pairs, differences, strict=True):
        first, second = (_mean_placements(pair.anomalous, s) for s in (pair.first, pair.second))
        of_anomalous, of_normal = (a - b - difference for a, b in zip(first, second, strict=True))
        repeats.append(Deviations(pair.clusters, np.asarray(pair.anomalous, bool), of_anomalous, of_normal))
    found = image_noise(repeats)
    rarer = min(found.n_normal, found.n_anomalous)
    least = (LEAST_ERROR / rarer) ** 2
    return replace(found, variance=least, freedom=float(rarer - 1)) if found.variance < least else found


def _mean_placements(anomalous: np.ndarray, trainings: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Placements of the anomalous and of the normal images, averaged over trainings."""
    found = [placements(anomalous, scores) for scores in trainings]
    return np.mean([a for a, _ in found], axis=0), np.mean([n for _, n in found], axis=0)
