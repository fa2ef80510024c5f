"""Confidence intervals, each with the name that tables print beside it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

# Images of a class below which, by simulation, several 95% intervals hold the truth in less than 93% of cases
# (docs/metrics.md). Whoever shows such an interval says so.
FEW_IMAGES = 20


@dataclass(frozen=True)
class Interval:
    """A two-sided interval and how it was computed; ``low`` and ``high`` are fractions from 0 to 1."""

    low: float
    high: float
    method: str


def wilson(successes: float, trials: float, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion; raises ``ValueError`` for less than one trial.

    Where trials are copies of each other, both numbers are those that they are worth (``image_noise``): they are then
    no whole numbers, which scipy's ``binomtest`` refuses. For whole numbers the two agree, as a test checks.

    >>> wilson(0, 10)
    Interval(low=0.0, high=0.277..., method='wilson')
    """
    if trials < 1:
        raise ValueError("a proportion needs at least one trial")
    z, p = norm.ppf((1 + level) / 2), successes / trials
    centre = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    return Interval(max(0.0, float(centre - half)), min(1.0, float(centre + half)), "wilson")


def nadeau_bengio(values: Sequence[float], test_to_train: float, level: float = 0.95) -> Interval | None:
    """Interval of a mean over repeated splits, corrected for what the repeats share (Nadeau and Bengio 2003).

    Repeats share training images, so their spread understates the variance: ``s^2 / J`` becomes
    ``s^2 (1/J + n_test / n_train)``, with Student's t at J - 1 degrees of freedom. Clipped to [0, 1].

    Args:
        values: one metric value per repeat.
        test_to_train: number of test images drawn per repeat over number of training images.
        level: coverage.

    Returns:
        None for fewer than two repeats: one split supports no claim about splits.
    """
    j = len(values)
    if j < 2:
        return None
    mean, variance = float(np.mean(values)), float(np.var(values, ddof=1))
    half = t.ppf((1 + level) / 2, j - 1) * np.sqrt(variance * (1 / j + test_to_train))
    return Interval(max(0.0, mean - float(half)), min(1.0, mean + float(half)), "nadeau_bengio")
