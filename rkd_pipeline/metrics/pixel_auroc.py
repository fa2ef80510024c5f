"""Pixel AUROC: image AUROC's definition over all pixels of the test set together, good pictures included.

>>> import numpy as np
>>> pixel_auroc(np.array([[[0.1, 0.9], [0.2, 0.3]]]), np.array([[[False, True], [False, False]]]))
1.0
"""

import numpy as np
from sklearn.metrics import roc_auc_score


def pixel_auroc(maps: np.ndarray, masks: np.ndarray) -> float:
    """AUROC of anomaly maps ``(N, H, W)`` against ground truth ``(N, H, W)`` of bool, in [0, 1]."""
    return float(roc_auc_score(masks.ravel(), maps.ravel()))
