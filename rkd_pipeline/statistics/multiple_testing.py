"""Many tests at once, and looks again and again: what keeps the chance of a false alarm at ``ALPHA``."""

import numpy as np

ALPHA = 0.05


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values (1979), in the order given.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted


def look_level(look: int) -> float:
    """What the ``look``-th look, from 1, may spend.

    >>> round(look_level(1), 4), round(sum(look_level(n) for n in range(1, 10_000)), 3)
    (0.025, 0.05)
    """
    return ALPHA / (look * (look + 1))
