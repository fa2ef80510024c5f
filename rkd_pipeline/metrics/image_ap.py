"""Image average precision: the step-wise area under the precision-recall curve (scikit-learn's definition).

>>> import numpy as np
>>> image_ap(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8]))
0.833...
"""

import numpy as np
from sklearn.metrics import average_precision_score


def image_ap(anomalous: np.ndarray, scores: np.ndarray) -> float:
    """AP of scores ``(N,)`` against labels ``(N,)`` of bool, in [0, 1]; no interpolation."""
    return float(average_precision_score(anomalous, scores))
