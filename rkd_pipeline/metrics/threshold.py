"""A threshold that has seen neither a test picture nor an anomaly, and the error rates that it really gives.

>>> import numpy as np
>>> validation_threshold(np.arange(100.0))
95.0
>>> validation_threshold(np.arange(10.0)) is None
True
"""

import math

import numpy as np

FALSE_POSITIVE_RATE = 0.05


def validation_threshold(normal_scores: np.ndarray, false_positive_rate: float = FALSE_POSITIVE_RATE) -> float | None:
    """The score above which a picture is called anomalous, from held-out normal pictures ``(N,)``.

    The conformal quantile: the k-th smallest score, ``k = ceil((N + 1) (1 - rate))``. A new normal picture of the
    same kind exceeds it with a probability of at most ``rate``, averaged over validation sets.

    Returns:
        None where N is too small to promise that rate (N < 19 for 5%).
    """
    k = math.ceil((len(normal_scores) + 1) * (1 - false_positive_rate))
    return None if k > len(normal_scores) else float(np.sort(normal_scores)[k - 1])
