"""How much a mean of placements varies over images: the variance that AUROCs and their differences share.

DeLong, DeLong and Clarke-Pearson (1988) from every image's own contribution, with clusters as in Obuchowski (1997): an
image that tests in several repeats, and images with the same pixels, are one. The degrees of freedom are
Satterthwaite's over the two classes: with ten images in one of them, the variance itself is known badly.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Deviations:
    """One repeat of N test images.

    Attributes:
        clusters: N names; images of one name are one image.
        anomalous: bool ``(N,)``.
        of_anomalous, of_normal: how far the placement of each image of the class lies from the mean.
    """

    clusters: Sequence[Hashable]
    anomalous: np.ndarray
    of_anomalous: np.ndarray
    of_normal: np.ndarray


@dataclass(frozen=True)
class ImageNoise:
    """Variance over images, its degrees of freedom (at least 1), and the numbers of distinct images."""

    variance: float
    freedom: float
    n_normal: int
    n_anomalous: int


def image_noise(repeats: Sequence[Deviations]) -> ImageNoise:
    """Variance over images of a mean over repeats.

    A contribution is a deviation over the size of the class; contributions are summed over repeats and copies before
    they are squared. The factor ``n / (n - 1)`` of a class makes one repeat without copies DeLong's own variance.

    Raises ``ValueError`` for a class without two distinct images.
    """
    anomalous = np.concatenate([repeat.anomalous for repeat in repeats]).astype(bool)
    names, cluster = np.unique(np.concatenate([np.asarray(r.clusters) for r in repeats]), return_inverse=True)
    counts = {kind: len(np.unique(cluster[anomalous == kind])) for kind in (False, True)}
    if min(counts.values()) < 2:
        raise ValueError(f"noise over images needs two of each class; there are {counts[False]} and {counts[True]}")
    contribution = np.empty(len(anomalous))
    for kind, deviations in ((True, [r.of_anomalous for r in repeats]), (False, [r.of_normal for r in repeats])):
        scale = np.sqrt(counts[kind] / (counts[kind] - 1)) / len(repeats)
        contribution[anomalous == kind] = np.concatenate([scale * d / len(d) for d in deviations])
    totals = {k: np.bincount(cluster, contribution * (anomalous == k), len(names)) for k in (False, True)}
    squares = {kind: float((total**2).sum()) for kind, total in totals.items()}
    spread = sum(part**2 / (counts[kind] - 1) for kind, part in squares.items())
    # Without any spread nothing says which class is the noisy one: the smaller.
    freedom = sum(squares.values()) ** 2 / spread if spread > 0 else min(counts.values()) - 1
    variance = float(((totals[False] + totals[True]) ** 2).sum())
    return ImageNoise(variance, max(1.0, freedom), counts[False], counts[True])


def effective_number(clusters: Sequence[Hashable]) -> float:
    """How many independent images the copies in a list of N names are worth (Kish 1965): N where all differ.

    >>> effective_number(["a", "b", "c"]), effective_number(["a", "a", "a", "b"])
    (3.0, 1.6)
    """
    sizes = np.unique(np.asarray(clusters), return_counts=True)[1]
    return float(sizes.sum() ** 2 / (sizes**2).sum())
