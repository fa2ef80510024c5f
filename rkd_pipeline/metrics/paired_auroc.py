"""Two systems on the same test pictures: the difference of their image AUROCs, and what of it could be noise.

Two kinds of noise are added, for both decide whether a difference will be seen again:

- *Pictures.* DeLong's variance of a difference (DeLong, DeLong and Clarke-Pearson 1988), from each picture's own
  contribution, over several repeats of a split. A picture that tests in several repeats, and pictures with the same
  pixels, are one cluster (Obuchowski 1997): they add evidence once.
- *Trainings.* The spread of the difference between repeats, each trained anew, corrected for the training pictures that
  repeats share (Nadeau and Bengio 2003). One repeat shows no spread, and supports no claim.

The degrees of freedom of the sum are Satterthwaite's; pictures alone count as infinitely many.

>>> import numpy as np
>>> anomalous, ids = np.arange(40) % 2 == 1, [str(i) for i in range(40)]
>>> worse, better = np.arange(40) % 5 + anomalous * 1.0, np.arange(40) % 5 + anomalous * 3.0
>>> pairs = [Pair(ids, anomalous, [better], [worse]), Pair(ids, anomalous, [better], [worse])]
>>> found = paired_auroc(pairs)
>>> round(found.first - found.second, 4) == round(found.difference, 4), found.p_better < 0.001
(True, True)
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from rkd_pipeline.metrics.image_auroc import image_auroc, placements


@dataclass(frozen=True)
class Pair:
    """One repeat: the same N test pictures, scored by two systems.

    Attributes:
        clusters: N names; pictures of one name are one picture (the same in several repeats, or copies).
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
        error_of_pictures, error_of_trainings: the two parts of the standard error; the latter None for one repeat.
        repeats: how many.
        n_normal, n_anomalous: distinct test pictures.
    """

    first: float
    second: float
    difference: float
    ci_low: float | None
    ci_high: float | None
    p_better: float | None
    error_of_pictures: float
    error_of_trainings: float | None
    repeats: int
    n_normal: int
    n_anomalous: int


def paired_auroc(pairs: Sequence[Pair], *, test_to_train: float = 0.0, level: float = 0.95) -> PairedAuroc:
    """Compare two systems over repeats.

    Args:
        pairs: one per repeat, at least one.
        test_to_train: test pictures that each repeat draws anew over training pictures; 0 where all test on the same.
        level: of the interval.

    Raises ``ValueError`` for no repeat, a class without two distinct pictures, or scores that are not finite.
    """
    if not pairs:
        raise ValueError("two systems cannot be compared without a repeat that both were trained on")
    differences = [_mean_auroc(p.anomalous, p.first) - _mean_auroc(p.anomalous, p.second) for p in pairs]
    difference, repeats = float(np.mean(differences)), len(pairs)
    of_pictures, counts = _picture_variance(pairs, differences)
    first, second = (
        float(np.mean([_mean_auroc(p.anomalous, s) for p, s in zip(pairs, side, strict=True)]))
        for side in ([p.first for p in pairs], [p.second for p in pairs])
    )
    if repeats == 1:
        return PairedAuroc(
            first, second, difference, None, None, None, float(np.sqrt(of_pictures)), None, 1, counts[0], counts[1]
        )
    of_trainings = float(np.var(differences, ddof=1)) * (1 / repeats + test_to_train)
    variance = of_pictures + of_trainings
    half, p_better = 0.0, float(difference <= 0)  # without any noise the difference is what it is
    if variance > 0:
        freedom = np.inf if of_trainings == 0 else (repeats - 1) * (variance / of_trainings) ** 2
        half = float(t.ppf((1 + level) / 2, freedom) * np.sqrt(variance))
        p_better = float(t.sf(difference / np.sqrt(variance), freedom))
    return PairedAuroc(
        first=first,
        second=second,
        difference=difference,
        ci_low=difference - half,
        ci_high=difference + half,
        p_better=p_better,
        error_of_pictures=float(np.sqrt(of_pictures)),
        error_of_trainings=float(np.sqrt(of_trainings)),
        repeats=repeats,
        n_normal=counts[0],
        n_anomalous=counts[1],
    )


def _mean_auroc(anomalous: np.ndarray, trainings: Sequence[np.ndarray]) -> float:
    return float(np.mean([image_auroc(anomalous, scores) for scores in trainings]))


def _picture_variance(pairs: Sequence[Pair], differences: Sequence[float]) -> tuple[float, tuple[int, int]]:
    """Variance over pictures of the mean difference, and the numbers of distinct normal and anomalous pictures.

    A picture's contribution to one repeat is how far its placement differs between the systems beyond the mean, over
    the size of its class; contributions are summed over repeats and copies before they are squared. The factor
    ``n / (n - 1)`` of a class makes one repeat without copies DeLong's own variance.
    """
    kinds: dict[bool, set[str]] = {False: set(), True: set()}
    for pair in pairs:
        for cluster, anomalous in zip(pair.clusters, pair.anomalous, strict=True):
            kinds[bool(anomalous)].add(cluster)
    counts = {kind: len(names) for kind, names in kinds.items()}
    if min(counts.values()) < 2:
        raise ValueError(f"noise over pictures needs two of each class; there are {counts[False]} and {counts[True]}")
    total: dict[str, float] = defaultdict(float)
    for pair, difference in zip(pairs, differences, strict=True):
        first, second = (_mean_placements(pair.anomalous, s) for s in (pair.first, pair.second))
        clusters = np.asarray(pair.clusters)
        for kind, mine, theirs in zip((True, False), first, second, strict=True):
            names = clusters[np.asarray(pair.anomalous, bool) == kind]
            scale = np.sqrt(counts[kind] / (counts[kind] - 1)) / (len(names) * len(pairs))
            for name, contribution in zip(names, (mine - theirs - difference) * scale, strict=True):
                total[str(name)] += float(contribution)
    return float(sum(value**2 for value in total.values())), (counts[False], counts[True])


def _mean_placements(anomalous: np.ndarray, trainings: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Placements of the anomalous and of the normal pictures, averaged over trainings."""
    found = [placements(anomalous, scores) for scores in trainings]
    return np.mean([a for a, _ in found], axis=0), np.mean([n for _, n in found], axis=0)
