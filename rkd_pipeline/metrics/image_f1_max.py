"""Image F1-max: the best F1 that any threshold reaches. An *oracle*: the threshold is chosen on test labels.

>>> import numpy as np
>>> image_f1_max(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8]))
0.8
"""

import numpy as np
from sklearn.metrics import precision_recall_curve


def image_f1_max(anomalous: np.ndarray, scores: np.ndarray) -> float:
    """The largest F1 over all thresholds, in [0, 1], of scores ``(N,)`` against labels ``(N,)`` of bool."""
    precision, recall, _ = precision_recall_curve(anomalous, scores)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)))
