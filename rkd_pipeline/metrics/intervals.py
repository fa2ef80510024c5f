"""Confidence intervals, each with the name that tables print beside it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm, t


@dataclass(frozen=True)
class Interval:
    """A two-sided interval and how it was computed; ``low`` and ``high`` are fractions from 0 to 1."""

    low: float
    high: float
    method: str


def newcombe(auroc: float, n_anomalous: int, n_normal: int, level: float = 0.95) -> Interval:
    """Newcombe's score-type interval for an AUROC (2006, method 5); not empty at 0 and 1, where DeLong's is.

    Solves ``|auroc - a| = z sqrt(V(a))`` with Hanley and McNeil's variance at equal group sizes ``(m + n) / 2``.

    >>> newcombe(1.0, 20, 10)
    Interval(low=0.848..., high=1.0, method='newcombe')
    """
    z = norm.ppf((1 + level) / 2)
    n = (n_anomalous + n_normal) / 2

    def variance(a: float) -> float:
        return a * (1 - a) / (n_anomalous * n_normal) * (2 * n - 1 - (3 * n - 3) / ((2 - a) * (1 + a)))

    def bound(towards: float) -> float:
        if auroc == towards:
            return towards
        # At the far end the variance is 0 and the distance is not; beside the estimate it is the other way round.
        # (At an estimate of 0 or 1 itself both are 0: a root, but not the one that is meant.)
        beside = auroc + 1e-9 * (towards - auroc)
        return float(brentq(lambda a: abs(auroc - a) - z * np.sqrt(variance(a)), beside, towards))

    return Interval(bound(0.0), bound(1.0), "newcombe")


def wilson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion; raises ``ValueError`` without trials.

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

    Repeats share training pictures, so their spread understates the variance: ``s^2 / J`` becomes
    ``s^2 (1/J + n_test / n_train)``, with Student's t at J - 1 degrees of freedom. Clipped to [0, 1].

    Args:
        values: one metric value per repeat.
        test_to_train: number of test pictures drawn per repeat over number of training pictures.
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
