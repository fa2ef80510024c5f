"""A threshold that has seen neither a test image nor an anomaly, and the error rates that it really gives.

>>> import numpy as np
>>> calibrated_threshold(np.arange(100.0))
95.0
>>> calibrated_threshold(np.arange(10.0)) is None
True
"""

import math

import numpy as np

FALSE_POSITIVE_RATE = 0.05


def normals_needed(false_positive_rate: float = FALSE_POSITIVE_RATE) -> int:
    """The fewest calibration images that can promise the rate: with fewer, no score of theirs is high enough.

    >>> normals_needed(0.05), normals_needed(0.01)
    (19, 99)
    """
    return math.ceil(1 / false_positive_rate - 1e-9) - 1


def calibrated_threshold(normal_scores: np.ndarray, false_positive_rate: float = FALSE_POSITIVE_RATE) -> float | None:
    """The score above which an image is called anomalous, from held-out normal images ``(N,)``.

    They may have had no part in the training: normals that stopped it look more normal than new ones do.

    The conformal quantile: the k-th smallest score, ``k = ceil((N + 1) (1 - rate))``. A new normal image of the
    same kind exceeds it with a probability of at most ``rate``, averaged over calibration sets.

    Returns:
        None where N is too small to promise that rate (N < 19 for 5%).
    """
    k = math.ceil((len(normal_scores) + 1) * (1 - false_positive_rate))
    return None if k > len(normal_scores) else float(np.sort(normal_scores)[k - 1])


def pixel_threshold(normal_maps: np.ndarray, false_positive_rate: float = FALSE_POSITIVE_RATE) -> float | None:
    """The score above which a pixel is called anomalous, from maps of held-out normal images ``(N, H, W)``.

    Pixels of an image depend on each other, so the promise is about images (conformal risk control, Angelopoulos et
    al. 2024): the share of pixels above the threshold, in a new normal image of the same kind, is at most ``rate``
    on average over images and calibration sets. It is the lowest score with a mean share over the N images of at
    most ``(rate (N + 1) - 1) / N``.

    Returns:
        None where N is too small to promise that rate (N < 19 for 5%).

    >>> pixel_threshold(np.arange(400.0).reshape(100, 2, 2))
    383.0
    """
    n, pixels = len(normal_maps), normal_maps[0].size if len(normal_maps) else 0
    allowed = pixels * (false_positive_rate * (n + 1) - 1)
    if n == 0 or allowed < -1e-9:
        return None
    k = n * pixels - 1 - math.floor(allowed + 1e-9)
    return float(np.partition(normal_maps, k, axis=None)[k])
